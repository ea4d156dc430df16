"""Does batch normalization train at learning rates where the plain network does not, and in fewer steps?

The paper says so (Sections 3.3 and 4.2.1) of Inception on ImageNet: five times the rate of the baseline overflows
without it, thirty times trains with it, and the baseline's best accuracy takes 14 times fewer steps (Figure 3).

Each activation and initialization is compared by itself, with means over seeds, geometric ones of rates, steps and
ratios, paired by seed. A diverged run ends at an accuracy of 0 and gets nowhere. A ratio matters from 1.25 on.

- ``usable``: the ends of the longest unbroken row of usable rates, the decades between them, and the ratio of the
  highest to that of the plain network. A rate is usable if its run ends at 90%; at 95%; or at 90% and within 1 point
  of the best of its arm and seed. Less is asked by ``above chance`` (twice the accuracy of guessing one of ten classes)
  and ``no divergence``. The true end lies between a rate that is usable and the next, which is not: intervals have that
  in them. An arm that is usable nowhere is so below its lowest rate at most.
- ``score``: final accuracy at the most accurate rate, and the gain in it. The rate is that of the highest mean over the
  other seeds; over all seeds on images that are held out for that, where there are any; or that of each seed's own test
  images, on which it is reported, too.
- ``steps_to_accuracy``: steps to one test accuracy after another. Targets are fixed, or of the baseline, the plain
  network at its most accurate rate, seed by seed if that ends at 90% or more: shares of the way from chance to where
  its curve ends, and the highest on its curve, as in the paper's Figure 3. Curves are smoothed (``analysis.smoothed``),
  or raw. A run is as fast as the first step at which its curve is that high, and an arm as its fastest rate: that of
  fewest steps of those that get most seeds there, among the other seeds (of a single seed, in itself). Beside it stands
  the speed-up with rates chosen on all seeds, and that with both arms at the rate of the plain network.
- ``rates``: final accuracy, share diverged, and the speed-up over the plain network of the same rate, to 99% of its way
  if it ends at 90% or more in every seed.

The highest point of a noisy curve is met late by the baseline, which favours arms that end higher than it; first steps
are too early by what is left of the noise, in either arm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, groups, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

CHANCE, USABLE, POINT, MATTERS = 0.1, 0.9, 0.01, 1.25
PANEL, ARM = ["activation", "init"], ["activation", "init", "norm"]
AT_90, AT_95, NEAR, ABOVE_CHANCE, NO_DIVERGENCE = "90%", "95%", "within 1 point", "above chance", "no divergence"
OTHERS, VALIDATION, OWN = "other seeds", "validation images", "its own test images"
FIXED = (0.8, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.975, 0.98)
WAYS = {f"{share:.0%} of the way": share for share in (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 1)}
WAY_99, END, HIGHEST = "99% of the way", "100% of the way", "the baseline's highest"
RAW, SPEED_UP, ON_ALL, SAME = "raw curve", "speed-up", "speed-up, all seeds", "speed-up, same rate"
FASTEST, SAME_RATE, RATIO = "fastest rate", "same rate", "ratio of highest"
PAPER = {"at the same rate": 31.0 / 13.3, "at 5 times the rate": 31.0 / 2.1}
"""Millions of steps to 72.2% of the baseline over those with batch norm, in the paper's Figure 3."""
LINES: list[tuple[str, str, dict[str, Any]]] = [
    (SPEED_UP, "target", {"lw": 1.8, "ls": "-", "label": "each at its fastest rate, by the other seeds"}),
    (ON_ALL, "target", {"lw": 1, "ls": "--", "label": "each at its fastest rate, by all seeds"}),
    (SAME, "target", {"lw": 1, "ls": (0, (1, 1)), "label": "both at the plain network's fastest rate"}),
    (f"{SPEED_UP}, {RAW}", f"target, {RAW}", {"lw": 1, "ls": "-.", "label": "by raw curves"}),
]
"""What is drawn of speed-ups: the quantity, that of its target, and its look."""
INTERVAL = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval (▾ at most, ▴ at least)")
LITTLE: Any = {"color": "0.92", "zorder": 0, "label": f"a ratio below {MATTERS}, which does not matter"}
OF_RAW = ("target", "steps", SPEED_UP)
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    curves, runs = results.table("curves"), _outcomes(results)
    analysis.cells(runs, [*ARM, "lr"])  # refuses what would be pooled
    arms, panels = groups(runs, ARM), groups(runs, PANEL)
    ending = curves[curves["run_id"].isin(runs["run_id"][~runs["diverged"]])]
    taken, by_raw = (
        pd.concat(_crossings(panel, drawn) for panel in panels.values())
        for drawn in (analysis.smoothed(ending), ending)
    )
    raw = {(*key, f"{name}, {RAW}"): e for (*key, name), e in _steps_to_accuracy(by_raw) if name in OF_RAW}
    shown, keys = pd.concat(_shown(panel, taken) for panel in panels.values()), [*ARM, "variant", "lr"]
    return {
        "usable": analysis.table(dict(_usable({a: _ranges(r) for a, r in arms.items()})), [*ARM, "level", "quantity"]),
        "score": analysis.table(
            dict(_score({a: _chosen(r) for a, r in arms.items()})), [*ARM, "chosen on", "quantity"]
        ),
        "steps_to_accuracy": analysis.table(dict(_steps_to_accuracy(taken)) | raw, [*ARM, "target", "quantity"]),
        "rates": analysis.table(dict(_rates(runs, taken)), [*ARM, "lr", "quantity"]),
        **analysis.finals(runs, [*ARM, "lr"]),
        "convergence": analysis.spread(curves.merge(shown[["run_id", *keys]]), "test_accuracy", [*keys, "step"]),
        "diverged_at": analysis.spread(shown, "diverged_at", [*keys, "seed"]),
    }


def _outcomes(results: Results) -> pd.DataFrame:
    """Return the runs with their initialization, and the accuracy by which a rate is the most accurate."""
    runs = analysis.outcomes(results)
    held_out = runs.get("validation_accuracy", pd.Series(math.nan, runs.index)).astype(float)
    if held_out.notna().any():
        held_out = held_out.mask(runs["diverged"], analysis.DIVERGED_ACCURACY)
    return runs.assign(init=analysis.initializations(runs), validation=held_out)


def _ranges(arm: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the usable range of each seed at each level, and the lowest rate that there is."""
    found: dict[str, dict[Any, Any]] = {}
    for seed, runs in arm.groupby("seed"):
        accuracy = runs.set_index("lr")["accuracy"]
        asked = {AT_90: USABLE, AT_95: 0.95, NEAR: max(accuracy.max() - POINT, USABLE)}
        for name, level in (asked | {ABOVE_CHANCE: 2 * CHANCE, NO_DIVERGENCE: np.nextafter(0, 1)}).items():
            usable = analysis.usable_range(accuracy, level)
            found.setdefault(name, {})[seed] = usable._asdict() | {"first": accuracy.index.min()}
    return {name: pd.DataFrame.from_dict(seeds, orient="index") for name, seeds in found.items()}


def _usable(arms: dict[Any, dict[str, pd.DataFrame]]) -> Rows:
    for arm, of_levels in arms.items():
        for level, seeds in of_levels.items():
            low, high, below, above = (seeds[end] for end in ("low", "high", "below", "above"))
            yield (*arm, level, "lowest"), analysis.between(below, low, low)
            yield (*arm, level, "highest"), analysis.between(high, above)
            yield (*arm, level, "decades"), analysis.between(high / low, above / below).map(math.log10)
            if arm[-1] != "none" and (plain := arms.get((*arm[:-1], "none"))):
                of, first = plain[level], seeds["first"]
                ends = high.fillna(0) / of["above"], above.fillna(first) / of["high"]
                yield (*arm, level, RATIO), analysis.between(*ends, high.fillna(first) / of["high"])


def _chosen(arm: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the run of each seed at the rate that is its most accurate, by what that is chosen on."""
    rates = {seed: analysis.best_value(_others(arm, seed), "lr") for seed in arm["seed"].unique()}
    found = {OTHERS: arm[arm["lr"] == arm["seed"].map(rates)]}
    if arm["validation"].notna().all():
        found[VALIDATION] = arm[arm["lr"] == _most_accurate(arm)]
    found[OWN] = arm.sort_values(["accuracy", "lr"]).drop_duplicates("seed", keep="last")
    return {name: runs.set_index("seed").sort_index() for name, runs in found.items()}


def _others(arm: pd.DataFrame, seed: Any) -> pd.DataFrame:
    """Return the rows of the other seeds, or of this one if it is the only one."""
    others = arm[arm["seed"] != seed]
    return others if len(others) else arm


def _most_accurate(arm: pd.DataFrame) -> Any:
    """Return the rate of the highest mean accuracy on images that are held out, on test images if there are none."""
    return analysis.best_value(arm.assign(accuracy=arm["validation"].fillna(arm["accuracy"])), "lr")


def _score(arms: dict[Any, dict[str, pd.DataFrame]]) -> Rows:
    for arm, choices in arms.items():
        plain = arms.get((*arm[:-1], "none"), {})
        for choice, runs in choices.items():
            yield (*arm, choice, "accuracy"), analysis.mean(runs["accuracy"])
            yield (*arm, choice, "rate"), analysis.geometric_mean(runs["lr"].where(runs["accuracy"] > 0))
            if arm[-1] != "none" and choice in plain:
                yield (*arm, choice, "gain"), analysis.difference(runs["accuracy"], plain[choice]["accuracy"])


def _crossings(panel: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return when each run of one activation and initialization gets to each target, of those that any run gets to."""
    curves = curves[(curves["step"] > 0) & curves["run_id"].isin(panel["run_id"])]
    panel = panel[["run_id", *ARM, "lr", "seed", "steps", "accuracy", "validation"]]
    plain = panel[panel["norm"] == "none"]
    baseline = plain[(plain["lr"] == _most_accurate(plain)) & (plain["accuracy"] >= USABLE)].set_index("run_id")["seed"]
    ends = curves.sort_values("step").groupby("run_id")["test_accuracy"].agg(["last", "max"])
    ends = ends[ends.index.isin(baseline.index)].rename(index=baseline)
    targets = {f"{100 * level:g}%": pd.Series(level, panel["seed"].unique()) for level in FIXED}
    targets |= {way: CHANCE + share * (ends["last"] - CHANCE) for way, share in WAYS.items()} | {HIGHEST: ends["max"]}
    found = [panel.iloc[:0].assign(target="", level=math.nan, least=math.nan, limit=math.nan)]
    for name, target in targets.items():
        level = panel["seed"].map(target).astype(float)
        reached = analysis.crossings(panel, level, curves)
        if np.isfinite(reached["steps"]).any():
            found.append(panel.assign(target=name, level=level, limit=panel["steps"], **reached))
    return pd.concat(found)


def _fastest(arm: pd.DataFrame) -> dict[Any, float]:
    """Return the rate of each seed that is the fastest of the other seeds."""
    return {seed: analysis.fastest_value(_others(arm, seed), "lr") for seed in arm["seed"].unique()}


def _at(arm: pd.DataFrame, rates: dict[Any, float]) -> pd.DataFrame:
    """Return the row of each seed at its rate, indexed by seed."""
    return arm.loc[arm["lr"] == arm["seed"].map(rates)].set_index("seed").sort_index()


def _steps_to_accuracy(taken: pd.DataFrame) -> Rows:
    for (*panel, target), runs in taken.groupby([*PANEL, "target"], sort=False):
        arms = groups(runs, ["norm"])
        rates = {norm: _fastest(arm) for norm, arm in arms.items()}
        at = {norm: _at(arm, rates[norm]) for norm, arm in arms.items()}
        all_seeds = {
            n: _at(arm, dict.fromkeys(arm["seed"], analysis.fastest_value(arm, "lr"))) for n, arm in arms.items()
        }
        for norm, arm in arms.items():
            key, cell, reached = (*panel, norm, target), at[norm], np.isfinite(arm["steps"]).any()
            steps = analysis.steps(cell["steps"], cell["limit"])
            yield (*key, "target"), analysis.mean(cell["level"])
            yield (*key, "rate"), analysis.geometric_mean(cell["lr"] if reached else cell["lr"].iloc[:0])
            yield (*key, "steps"), steps._replace(low=analysis.steps(cell["least"], cell["limit"]).low)
            if norm != "none" and "none" in arms and np.isfinite(arms["none"]["steps"]).any():
                same = at["none"], _at(arm, rates["none"])
                pairs = {SPEED_UP: (at["none"], cell), ON_ALL: (all_seeds["none"], all_seeds[norm]), SAME: same}
                for name, (one, other) in pairs.items():
                    yield (*key, name), analysis.speed_up_between(one, other, one["limit"])


def _rates(runs: pd.DataFrame, taken: pd.DataFrame) -> Rows:
    targets = {AT_90, WAY_99} & {*taken["target"]}
    reached = {each: analysis.cells(taken[taken["target"] == each], [*ARM, "lr"]) for each in sorted(targets)}
    for (*panel, norm, lr), cell in analysis.cells(runs, [*ARM, "lr"]).items():
        yield (*panel, norm, lr, "final accuracy"), analysis.mean(cell["accuracy"])
        yield (*panel, norm, lr, "diverged"), analysis.share(cell["diverged"])
        for target, cells in reached.items():
            plain, other = (cells.get((*panel, each, lr)) for each in ("none", norm))
            if norm != "none" and plain is not None and other is not None and np.isfinite(plain["steps"]).all():
                found = analysis.speed_up_between(plain, other, plain["limit"])
                yield (*panel, norm, lr, f"{SPEED_UP} to {target}"), found


def _shown(panel: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose curves are drawn: of each arm at its fastest rate, and at that of the plain network."""
    arms = groups(panel, ["norm"])
    reached = taken[(taken["target"] == END) & taken["run_id"].isin(panel["run_id"])]
    rates = {norm: _most_accurate(arm) for norm, arm in arms.items()}
    rates |= {norm: analysis.fastest_value(arm, "lr") for norm, arm in groups(reached, ["norm"]).items()}
    wanted = [(norm, FASTEST, lr) for norm, lr in rates.items()]
    wanted += [(norm, SAME_RATE, lr) for norm in arms if (lr := rates.get("none", rates[norm])) != rates[norm]]
    at: list[pd.DataFrame] = [arms[n].query("lr == @lr").assign(variant=variant) for n, variant, lr in wanted]
    return pd.concat(at)


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw accuracy against rates and against steps; ratios of usable rates, and speed-ups, if there are any."""
    accuracy = parts.accuracy_against("learning rate", tables["final"], tables["diverged"], level=USABLE)
    drawn = {"accuracy": accuracy, "convergence": _convergence(tables)}
    ratios = tables["usable"].query("quantity == @RATIO and n > 0").droplevel("quantity")
    if len(ratios):
        drawn["usable"] = _ratios(ratios)
    if tables["steps_to_accuracy"].query("quantity == @SPEED_UP")["n"].any():
        drawn["speed_up"] = _speed_ups(tables["steps_to_accuracy"])
    return drawn


def _panels(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Return activation and initialization of the rows of a table."""
    return list(dict.fromkeys(key[:2] for key in table.index))


def _convergence(tables: Tables) -> Figure:
    """Draw the plain network at its fastest rate, and the others at theirs and at that."""
    curves, norms = tables["convergence"], levels(tables["convergence"], "norm")
    keys, size = _panels(tables["score"]), (4.6, 3.2)
    figure, axes = parts.panels([parts.panel_label(key) for key in keys], size, most=2, sharex=True, sharey=True)
    for ax, key in zip(axes, keys, strict=True):
        drawn = dict.fromkeys(each[:3] for each in rows(curves, *key).index)
        for norm, variant, lr in sorted(drawn, key=lambda each: (norms.index(each[0]), each[1])):
            thin = {"linewidth": 0.9} if variant == SAME_RATE else {}
            look = parts.style(norm, norms) | {"marker": None, "label": f"{parts.style(norm)['label']}, {lr:g}"}
            parts.line(ax, rows(curves, *key, norm, variant, lr), look | thin)
            parts.crosses(ax, rows(tables["diverged_at"], *key, norm, variant, lr)["value"], look)
        if (end := estimate(tables["steps_to_accuracy"], *key, "none", END, "target")).n:
            ax.axhline(end.value, **parts.REFERENCE, label="the baseline's end")
        ax.legend(title="learning rate", frameon=True, framealpha=0.85, edgecolor="none")
    parts.axes_of_curves(axes, curves)
    parts.legend(figure, parts.band_over(int(curves["n"].max())))
    return figure


def _limits(ratios: pd.Series, most: float) -> tuple[float, float]:
    """Return limits of an axis that has all ratios and the paper's; an interval may be longer, as one of two seeds."""
    return min(0.5, ratios.min() / 1.5), max(most, 1.5 * ratios.max())


def _ratios(table: pd.DataFrame) -> Figure:
    """Draw the ratios of the highest usable rates, a panel per activation and a row per initialization and level."""
    activations, norms = levels(table, "activation"), levels(table, "norm")
    names = list(dict.fromkeys((init, level) for _, init, _, level in table.index))
    size = (4.3, 0.7 + 0.22 * len(names))
    figure, axes = parts.panels([parts.activation_label(a) for a in activations], size, sharex=True, sharey=True)
    for ax, activation in zip(axes, activations, strict=True):
        for i, norm in enumerate(norms):
            found = rows(table, activation).query("norm == @norm").droplevel("norm")
            at = [names.index(name) + 0.2 * i for name in found.index]
            look = parts.style(norm, norms) | {"linestyle": "", "label": None}
            parts.points(ax, found.set_axis(at), look, along="x", markersize=5)
        ax.axvspan(1 / MATTERS, MATTERS, **LITTLE)
        for multiple in (5, 30):
            ax.axvline(multiple, color="0.6", linewidth=1)
        ax.set_xlabel("ratio of highest usable rates")
    parts.axis_of_ratios(axes[0].xaxis)
    axes[0].xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].set_xlim(_limits(table["value"], 60))
    axes[0].set_yticks(range(len(names)), [", ".join(filter(None, name)) for name in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    parts.label_rows(axes, "what is usable")
    paper = Line2D([], [], color="0.6", linewidth=1, label="5 and 30 times, as in the paper")
    parts.legend(figure, [*parts.arms(norms, linestyle="", markersize=5), INTERVAL, paper, Patch(**LITTLE)])
    return figure


def _speed_ups(table: pd.DataFrame) -> Figure:
    """Draw speed-ups against the target, as the experiment chooses and as its critics would, beside the paper's."""
    found = table.xs(SPEED_UP, level="quantity").query("n > 0")
    keys, norms = _panels(found), levels(found, "norm")
    figure, axes = parts.panels([parts.panel_label(key) for key in keys], (4.3, 3.2), most=2, sharex=True, sharey=True)
    for ax, key in zip(axes, keys, strict=True):
        for norm in levels(rows(found, *key), "norm"):
            by_target = rows(table, *key, norm)
            look = parts.style(norm, norms) | {"label": None}
            for quantity, target, line in LINES:
                drawn = by_target.xs(quantity, level="quantity").query("n > 0")
                drawn = drawn.set_axis(by_target.xs(target, level="quantity")["value"][drawn.index].to_numpy())
                ax.plot(drawn["value"].sort_index(), **line | {"color": look["color"], "label": None})
                if quantity == SPEED_UP:
                    parts.points(ax, drawn, look | {"linestyle": ""}, markersize=4)
        for target in END, HIGHEST:
            ax.axvline(estimate(table, *key, "none", target, "target").value, **parts.REFERENCE)
        ax.axhspan(1 / MATTERS, MATTERS, **LITTLE)
        for speed_up, dashes in zip(PAPER.values(), ("--", "-"), strict=True):
            ax.axhline(speed_up, color="0.6", linewidth=1, linestyle=dashes)
        ax.set_xlabel("target of test accuracy")
        parts.axis_of_accuracy(ax, table.xs("target", level="quantity")["value"].max(), bottom=0.4, along="x")
        ax.spines["bottom"].set_bounds(*ax.get_xlim())
    parts.axis_of_ratios(axes[0].yaxis)
    axes[0].set_ylim(_limits(found["value"], 25))
    parts.label_rows(axes, "speed-up over the plain network")
    handles: list[Any] = [*parts.arms(norms, linestyle="", markersize=4), INTERVAL]
    handles += [Line2D([], [], color="0.3", **line) for *_, line in LINES] + [Patch(**LITTLE)]
    handles.append(Line2D([], [], label="the baseline's end, and its highest", **parts.REFERENCE))
    for (name, speed_up), dashes in zip(PAPER.items(), ("--", "-"), strict=True):
        handles.append(Line2D([], [], color="0.6", lw=1, ls=dashes, label=f"the paper's, {name}: {speed_up:.3g}"))
    parts.legend(figure, handles)
    return figure


def _higher(*of_levels: str, fails: bool = False) -> Any:
    """Return findings: the ratio of the highest usable rates at each level at which plain networks train, or fail."""

    def findings(tables: Tables) -> list[Finding]:
        table = tables["usable"]
        return [
            analysis.above(f"{parts.panel_label(key)}, {level}: {RATIO} usable rates", found, MATTERS)
            for level in of_levels
            for key in _panels(table)
            for found in [estimate(table, *key, "batch", level, RATIO)]
            if (plain := estimate(table, *key, "none", level, "highest")).n and not (fails and plain.bound)
        ]

    return findings


def _fewer_steps(tables: Tables) -> list[Finding]:
    """Return the speed-up to each share of the way of each baseline."""
    table = tables["steps_to_accuracy"]
    return [
        analysis.above(f"{parts.panel_label(key)}, speed-up to {way}", found, MATTERS)
        for way in reversed(WAYS)
        for key in _panels(table)
        for found in [estimate(table, *key, "batch", way, SPEED_UP)]
        if estimate(table, *key, "none", way, "target").n
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="A2",
            section="Abstract, Section 3.3",
            sentence="Batch norm lets a network train at much higher learning rates.",
            criterion="For each activation and initialization with which plain networks are usable at some rate, the "
            f"highest usable rate with batch norm is at least {MATTERS} times that without, with its whole interval, "
            "whether usable is from 90%, from 95% or within 1 point of the best.",
            findings=_higher(AT_90, AT_95, NEAR),
            figure="usable",
            paper="5 times the baseline's rate, and 30 times",
        ),
        Claim(
            id="3.b",
            section="Section 3",
            sentence="Normalizing each feature by itself speeds up convergence, though features stay correlated.",
            criterion="For each activation and initialization with which plain networks end at 90% or more, the "
            f"speed-up at the fastest rate of each is at least {MATTERS} at 50%, 80%, 90%, 95%, 98%, 99% and 100% of "
            "the way from chance to where they end, with its whole interval.",
            findings=_fewer_steps,
            figure="speed_up",
            paper="2.3 times fewer steps at the same rate, 14.8 at 5 times the rate",
        ),
        Claim(
            id="3.3c",
            section="Section 3.3",
            sentence="With batch norm high learning rates do not make training explode, since the scale of a layer's "
            "parameters does not change what it passes back.",
            criterion="For each activation and initialization with which plain networks fail at high rates, the "
            f"highest rate at which they do not is at least {MATTERS} times as high with batch norm, with its whole "
            "interval, whether to fail is to end at 20% or less or to diverge.",
            findings=_higher(ABOVE_CHANCE, NO_DIVERGENCE, fails=True),
            figure="accuracy",
        ),
    ],
    arms=["activation", "norm", "model.init", "lr"],
    needs=["run.test_accuracy"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
