"""Does the paper's Figure 1 come out again, over what the paper leaves unsaid: learning rate and initial weights?

Figure 1 (Section 4.1) shows a network of three hidden layers of 100 sigmoids on binary MNIST: (a) its test accuracy,
(b, c) what enters one typical sigmoid of the last hidden layer, without and with batch normalization. Only MNIST and
the paper's 50,000 steps can be compared with it: ``python -m bnrepro +sweep=figure1 dataset=mnist``.

- ``score``, of each setting: final accuracy is the mean over seeds, a diverged run having 0. Differences from the paper
  are |a(t) − a'(t)| at its steps t, where a is the mean over seeds of our test accuracy, linearly interpolated, and a'
  the paper's: the largest once its curve has settled (from step 12,000 on without batch norm, 8,000 with), and the mean
  over all. The difference at the end is signed: a − a', the mean from step 40,000 on. Crossed, a' is the paper's curve
  of the other arm. There are none if a run diverged. The noise that is left in a mean of few seeds makes the largest
  difference larger.
- ``chosen``, of the nearest settings: one for both arms, at which the larger of their differences is least, and each
  arm's own; then both for the paper's two curves swapped. Where nothing can be compared, the most accurate settings.
  Beside each stand the number of settings that it was chosen among, how many of these are within the bound of
  ``BOUND`` (both arms, where one is for both), and what choosing on the same curves gains: the mean largest difference
  of one seed's curve, with that seed among those on which the setting was chosen, and with it left out of the choice,
  and the share of seeds without which the choice is the same.
- ``drift``, of what enters a sigmoid: the range of its median and the sum of all its changes; over all of training and
  after its first tenth (step 5,000); of the median as it was measured, and smoothed by a running mean over 9
  measurements, fewer at the ends; as they are, and relative to the mean spread, from the 15th to the 85th percentile.
  Measurements are the evenly spaced ones, which the paper's are, too. The sum of all changes grows with the number of
  measurements and with the jitter from one to the next, of which it is mostly made; the range of the smoothed median
  hardly knows either. So the typical unit is in the middle of all by that range; the one in the middle by the sum of
  all changes, whose picture the other rule would show, stands beside it. ``compared`` has the ratios, with batch norm
  over without, paired by seed, of either typical unit and of the median over all units, and those of the paper's unit.
- ``tuning``: the share of the grid's settings at which an arm ends at 90% or more, at 95%, and within one point of its
  best setting's mean. It is of this grid: what share of a wider one trains is another number.

Some setting of either arm is as near to the other arm's curve as to its own, so each arm's nearest tells nothing; one
setting for both can tell the arms apart, and on it the verdict rests. The paper's curves can be had with an ordinary
setting, which need not be the paper's. That what enters a sigmoid is more stable was judged by range and changes of the
measured median over all of training; each choice that could turn that round is now part of the criterion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, groups, levels, rows
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.experiment import Claim, Experiment
from bnrepro.presenting import spell

SERIES = {"none": "without_bn", "batch": "with_bn"}
OTHER = {"none": "batch", "batch": "none"}
SETTLED = {"none": 12_000, "batch": 8_000}
"""The step until which the paper's curve climbs, so that a small shift in time is a large difference."""
END = 40_000
"""The step from which a curve is at its end, the last fifth."""
BOUND = 0.01
"""The largest difference that still is the paper's curve: 100 of 10,000 test images, six standard errors of one
network's accuracy of 0.97 on these, and about what the paper's two curves differ by once settled, 0.007 to 0.022."""
FLOOR = 0.7
"""The accuracy at which the paper's axis begins."""
LATE = 0.1
"""The fraction of training after which drift is measured once more."""
WINDOW = 9
"""The number of measurements over which a median is smoothed."""
SETTING = ["norm", "initialization", "lr"]
PERCENTILES = ["p50", "p15", "p85"]
FINAL, DIVERGED, LARGEST, MEAN = "final accuracy", "diverged", "largest difference", "mean difference"
ENDING, CROSSED, CONTROL = "difference at the end", "crossed difference", "largest less crossed"
SETTINGS, WITHIN = "settings", "settings within the bound"
ONE, LEFT_OUT, SAME = "of one seed", "of one seed left out", "same choice without it"
TRAINED = "90%"
"""The final accuracy from which a network counts as trained."""
SHARE, GAIN = "share of settings that train", "gain in that share"
COMMON, OWN, SWAPPED = "one for both", "each its own", ", swapped"
PAPER, TYPICAL, JITTERY, MEDIAN = "the paper's", "typical", "typical by changes", "median of all"
RULES = {TYPICAL: ("whole", "smoothed", "range"), JITTERY: ("whole", "measured", "changes")}
"""The kind of drift by which a unit is in the middle of all, for each rule."""
KINDS = [(w, c, q) for q in ("range", "changes") for c in ("smoothed", "measured") for w in ("whole", "after a tenth")]
"""The kinds of drift, by window, curve and quantity, the foremost first."""
RELATIVE = " / spread"


def _read(name: str) -> dict[str, pd.DataFrame]:
    """Return what was read off a figure of the paper, by norm."""
    table = pd.read_csv(Path(__file__).with_name("paper") / f"{name}.csv", comment="#")
    return {norm: table[table["series"] == series] for norm, series in SERIES.items()}


PRINTED = {norm: table.set_index("step")["test_accuracy"] for norm, table in _read("figure1a").items()}
"""Test accuracy by step, as the paper prints it."""
PRINTED_INPUTS = {
    norm: table.assign(unit=0)
    .pivot_table("sigmoid_input", ["unit", "fraction_of_training"], "percentile")
    .dropna()
    .add_prefix("p")[PERCENTILES]
    .rename_axis(["unit", "fraction"])
    for norm, table in _read("figure1bc").items()
}
"""Percentiles of the input of one sigmoid, unit 0, by the fraction of training, as the paper prints them."""

PRINTED_LOOK: dict[str, Any] = {
    "none": {"color": "0.4", "linestyle": ":", "linewidth": 1, "label": "Without BN (paper)"},
    "batch": {"color": "0.4", "linestyle": "-", "linewidth": 1, "label": "With BN (paper)"},
}


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    runs["initialization"] = analysis.initializations(runs)
    units = results.table("units").reindex(columns=["run_id", "step", "unit", *PERCENTILES])
    units = units.replace([math.inf, -math.inf], math.nan).dropna(ignore_index=True)
    has_units = runs["run_id"].isin(units["run_id"])
    # A run with units, or measured more often than another of its setting and seed, repeats one of the grid.
    seldom = runs["train.measurements"] == runs.groupby([*SETTING, "seed"])["train.measurements"].transform("min")
    grid = runs[seldom & (~has_units | bool(has_units.all()))]
    cells = analysis.cells(grid, SETTING)
    differences = dict(_differences(cells, curves))
    score = analysis.table(dict(_score(cells, differences)), [*SETTING, "quantity"])
    chosen = analysis.table(dict(_chosen(score, differences)), ["choice", *SETTING, "quantity"])
    drift, inputs, typical = _of_units(runs[has_units], units)
    shown = curves[["run_id", "step", "test_accuracy"]].merge(grid[["run_id", *SETTING]])
    printed = {(norm, step): Estimate(a) for norm, curve in PRINTED.items() for step, a in curve.items()}
    return {
        "score": score,
        "chosen": chosen,
        "tuning": analysis.table(dict(_tuning(grid)), ["norm", "level", "quantity"]),
        "drift": analysis.table(dict(_means(drift)), ["norm", *OF_DRIFT]),
        "compared": analysis.table(dict(_ratios(drift)), OF_DRIFT),
        "curves": analysis.spread(shown, "test_accuracy", [*SETTING, "step"]),
        "diverged_at": analysis.spread(grid, "diverged_at", [*SETTING, "seed"]),
        "printed": analysis.table(printed, ["norm", "step"]),
        "inputs": analysis.table(inputs, ["norm", "setting", "unit", "fraction"]),
        "typical": analysis.table(typical, ["norm", "setting", "rule"]),
    }


def _differences(cells: Mapping[Any, pd.DataFrame], curves: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Return our curves less the paper's of each cell that can be compared, by seed, and the paper's arm and steps."""
    accuracy = dict(iter(curves.set_index("step").groupby("run_id")["test_accuracy"]))
    length = max(curve.index[-1] for curve in PRINTED.values())
    for key, cell in cells.items():
        whole = not cell["diverged"].any() and cell["steps"].min() >= length
        if key[0] in SERIES and whole and cell["dataset"].eq("mnist").all():
            found = {}
            for seed, ours in cell["run_id"].map(accuracy).items():
                less = {arm: np.interp(paper.index, ours.index, ours) - paper for arm, paper in PRINTED.items()}
                found[seed] = pd.concat(less)
            yield key, pd.DataFrame(found).T


def _score(
    cells: Mapping[Any, pd.DataFrame], differences: Mapping[Any, pd.DataFrame]
) -> Iterator[tuple[tuple[Any, ...], Estimate]]:
    for key, cell in cells.items():
        yield (*key, FINAL), analysis.mean(cell["accuracy"])
        yield (*key, DIVERGED), analysis.share(cell["diverged"])
        if (found := differences.get(key)) is not None:
            seeds = [found.loc[[seed]] for seed in found.index]
            for quantity, statistic in _statistics(key[0]).items():
                yield (*key, quantity), analysis.jackknife(statistic, seeds)


def _tuning(grid: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], Estimate]]:
    """Return the share of settings, of those that a seed has of both arms, at which each arm trains.

    Seeds are those that have the most settings.
    """
    wide = grid.pivot_table("accuracy", [*SETTING[1:], "seed"], "norm").dropna()
    settings = wide.groupby("seed").size()
    wide = wide[wide.index.isin(settings.index[settings == settings.max()], level="seed")]
    best = wide.groupby(SETTING[1:]).mean().max()
    for name, level in ((TRAINED, 0.9), ("95%", 0.95), ("1 point below its best", best - 0.01)):
        trained = (wide >= level).groupby("seed").mean()
        for norm in (norm for norm in SERIES if norm in trained):
            yield (norm, name, SHARE), analysis.mean(trained[norm])
        if {*trained} >= {*SERIES}:
            yield ("batch", name, GAIN), analysis.difference(trained["batch"], trained["none"])


def _statistics(norm: str) -> dict[str, Callable[[pd.DataFrame], float]]:
    """Return what is computed of the differences of several seeds, a row each."""

    def largest(seeds: pd.DataFrame, arm: str) -> float:
        return float(seeds.mean()[arm].loc[SETTLED[arm] :].abs().max())

    return {
        LARGEST: lambda seeds: largest(seeds, norm),
        MEAN: lambda seeds: seeds.mean()[norm].abs().mean(),
        ENDING: lambda seeds: seeds.mean()[norm].loc[END:].mean(),
        CROSSED: lambda seeds: largest(seeds, OTHER[norm]),
        CONTROL: lambda seeds: largest(seeds, norm) - largest(seeds, OTHER[norm]),
    }


def _choose(score: pd.DataFrame) -> dict[str, list[tuple[str, str, float]]]:
    """Return the settings of each choice, as norm, initialization and learning rate."""
    norms = levels(score, "norm")
    wide = score.reset_index().pivot_table("value", ["initialization", "lr"], ["quantity", "norm"])

    def known(quantity: str) -> pd.DataFrame:
        found = wide.reindex(columns=[(quantity, norm) for norm in norms]).set_axis(norms, axis=1)
        return found.round(12).dropna(axis=1, how="all")

    def best(ways: Iterable[pd.Series]) -> Any:
        """Return the setting that is best by the first of several measures that any setting has, or None."""
        return next((way.idxmax() for way in ways if way.notna().any()), None)

    chosen = {}
    for suffix, ways in (("", [-known(LARGEST), known(FINAL)]), (SWAPPED, [-known(CROSSED)])):
        common = best(way.min(axis=1, skipna=False) for way in ways)
        own = {norm: best(way[norm] for way in ways if norm in way) for norm in norms}
        chosen[COMMON + suffix] = [(norm, *common) for norm in norms if common and len(norms) > 1]
        chosen[OWN + suffix] = [(norm, *setting) for norm, setting in own.items() if setting]
    return {choice: settings for choice, settings in chosen.items() if settings}


def _chosen(score: pd.DataFrame, differences: Mapping[Any, pd.DataFrame]) -> Iterator[tuple[tuple[Any, ...], Estimate]]:
    """Return the rows of ``score`` of each choice, among how many it was made, and what it is without each seed."""
    seeds = sorted(set.intersection(*(set(found.index) for found in differences.values()))) if differences else []
    without = {}
    for seed in seeds if len(seeds) > 1 else []:
        left = {
            (*key, quantity): Estimate(_statistics(key[0])[quantity](found.drop(index=seed)))
            for key, found in differences.items()
            for quantity in (LARGEST, CROSSED)
        }
        without[seed] = _choose(analysis.table(left, [*SETTING, "quantity"]))
    for choice, settings in _choose(score).items():
        quantity = CROSSED if choice.endswith(SWAPPED) else LARGEST
        away = score.reset_index().query("quantity == @quantity").pivot_table("value", SETTING[1:], "norm")
        for key in settings:
            for name, *found in rows(score, *key).itertuples():
                yield (choice, *key, name), Estimate(*found)
            if key not in differences:
                continue
            among = (away if choice.startswith(COMMON) else away[[key[0]]]).dropna()
            n = len(differences[key])
            yield (choice, *key, SETTINGS), Estimate(len(among), n=n)
            yield (choice, *key, WITHIN), Estimate((among <= BOUND).all(axis=1).sum(), n=n)
            least = {seed: next(each for each in of[choice] if each[0] == key[0]) for seed, of in without.items()}
            if least:
                statistic = _statistics(key[0])[quantity]
                for name, of in ((ONE, dict.fromkeys(least, key)), (LEFT_OUT, least)):
                    each = [statistic(differences[setting].loc[[seed]]) for seed, setting in of.items()]
                    yield (choice, *key, name), analysis.mean(pd.Series(each))
                yield (choice, *key, SAME), analysis.share(pd.Series(least).map(key.__eq__))


OF_DRIFT = ["unit", "setting", "window", "curve", "quantity"]
Drifts = dict[Any, Any]
"""The drift of a unit by norm, unit and setting: a row per seed, and a column per window, curve and quantity."""


def _of_units(runs: pd.DataFrame, units: pd.DataFrame) -> tuple[Drifts, dict[Any, Estimate], dict[Any, Estimate]]:
    """Return the drift, inputs and typical units of each norm at the first of the settings measured most often.

    Inputs and typical units are of the first seed, units in the order of which the middle is typical.
    """
    of_run = runs.set_index("run_id")
    steps = units["run_id"].map(of_run["steps"])
    interval = steps // units["run_id"].map(of_run["train.measurements"])
    even = (units["step"] > 0) & (units["step"] % interval.clip(lower=1) == 0)
    units = units.assign(fraction=units["step"] / steps, even=even).set_index(["unit", "fraction"])
    bands = dict(iter(units.groupby("run_id")))
    drift, inputs, typical = Drifts(), dict[Any, Estimate](), dict[Any, Estimate]()
    same = ["train.measurements", "initialization", "lr"]
    runs = runs.sort_values([*same, "seed"], ascending=[False, True, True, True])
    for norm, members in groups(runs, ["norm"]).items():
        seeds = next(part for _, part in members.groupby(same, sort=False)).drop_duplicates("seed")
        first, ended = seeds.iloc[0], ~seeds["diverged"].to_numpy()
        setting = _spell(first["initialization"], first["lr"])
        each_unit = bands[first["run_id"]].index.unique("unit")
        drifts = [_drift(bands[run_id].query("even")).reindex(each_unit) for run_id in seeds["run_id"]]
        of_units = {rule: [each.loc[_middle(each[by])] for each in drifts] for rule, by in RULES.items()}
        for unit, found in (of_units | {MEDIAN: [each.median() for each in drifts]}).items():
            drift[norm, unit, setting] = pd.DataFrame([*found]).set_axis(seeds["seed"])[ended]
        title = f"{setting}, seed {first['seed']}" + ("" if ended[0] else ", diverged")
        order = drifts[0][RULES[TYPICAL]].sort_values(kind="stable").index
        shown = {title: bands[first["run_id"]][PERCENTILES].loc[order]}
        typical |= {(norm, title, rule): Estimate(of_units[rule][0].name) for rule in RULES}
        if norm in SERIES:
            shown[PAPER] = PRINTED_INPUTS[norm]
            drift[norm, PAPER, "not stated"] = _drift(shown[PAPER])
            typical[norm, PAPER, TYPICAL] = Estimate(0)
        inputs |= {(norm, title, *at): Estimate(*p) for title, band in shown.items() for at, *p in band.itertuples()}
    return drift, inputs, typical


def _drift(band: pd.DataFrame) -> pd.DataFrame:
    """Return how the median of each unit moved, by window, curve and quantity."""
    measured = band["p50"].sort_index()
    smoothed = measured.groupby("unit").rolling(WINDOW, center=True, min_periods=1).mean().droplevel(0)
    paths, spread = {"smoothed": smoothed, "measured": measured}, band["p85"] - band["p15"]
    found = {}
    for window, curve, quantity in KINDS:
        first = LATE if window == "after a tenth" else 0
        path, widths = (
            each[each.index.get_level_values("fraction") >= first].groupby("unit") for each in (paths[curve], spread)
        )
        moved = path.diff().abs().groupby("unit").sum(min_count=1) if quantity == "changes" else path.max() - path.min()
        found[window, curve, quantity] = moved
        found[window, curve, quantity + RELATIVE] = moved / widths.mean()
    return pd.DataFrame(found)


def _middle(moved: pd.Series) -> Any:
    """Return the unit in the middle of those in order of drift, the lower of two."""
    return moved.sort_values(kind="stable").index[(len(moved) - 1) // 2]


def _means(drift: Drifts) -> Iterator[tuple[tuple[Any, ...], Estimate]]:
    for key, seeds in drift.items():
        for kind, values in seeds.items():
            yield (*key, *kind), analysis.mean(values)


def _ratios(drift: Drifts) -> Iterator[tuple[tuple[Any, ...], Estimate]]:
    for (norm, *of), seeds in drift.items():
        if norm == "batch" and (plain := drift.get(("none", *of))) is not None:
            for kind, values in seeds.items():
                yield (*of, *kind), analysis.ratio(values, plain[kind])


def _spell(initialization: str, lr: float) -> str:
    return f"{initialization}, rate {lr:g}"


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw Figure 1(a) where it came nearest, all ``settings`` and, if measured, Figure 1(b, c) and all ``units``.

    ``stability`` has how much less drifts with batch norm, for which both arms must be measured at one setting.
    """
    norms = levels(tables["inputs"], "norm")
    drawn = {"figure1a": _accuracy(tables), "settings": _settings(tables)}
    if ours := [norm for norm in norms if norm in SERIES]:
        drawn["figure1bc"] = _typical_inputs(tables, ours)
    if MEDIAN in tables["compared"].index.unique("unit"):
        drawn["stability"] = _stability(tables["compared"])
    return drawn | {f"units-{norm}": _all_inputs(tables, norm) for norm in norms}


def _accuracy(tables: Tables) -> Figure:
    """Draw Figure 1(a): both arms at the best setting that they have in common, and each at its own."""
    chosen, compared = tables["chosen"], _compared(tables)
    choices = {COMMON: "one setting for both arms", OWN: "each arm at its own setting"}
    choices = {choice: title for choice, title in choices.items() if len(rows(chosen, choice))}
    figure, axes = parts.panels([*choices.values()], (5, 3.9), sharex=True, sharey=True)
    for ax, choice in zip(axes, choices, strict=True):
        for norm, *setting in rows(chosen, choice).droplevel("quantity").index.unique():
            own, crossed, end = (estimate(chosen, choice, norm, *setting, q) for q in (LARGEST, CROSSED, ENDING))
            distance = f"\n{spell(own)}\ncrossed {crossed.value:.3f}, at the end {end.value:+.3f}" if own.n else ""
            _draw_arm(ax, tables, (norm, *setting), label=_spell(*setting) + distance.replace("-", "−"))
        among = rows(chosen, choice).query("quantity == @SETTINGS")["value"].max()
        title = f"nearest of {among:.0f} settings, largest difference\nfrom the paper's curve"
        title = title if compared else "most accurate"
        ax.legend(loc="lower right", title=title, fontsize=7.5, title_fontsize=7.5)
    axes[0].set(ylabel=axis_label("run", "test_accuracy"), ylim=(FLOOR if compared else 0, 1))
    note = "crossed: from the paper's curve of the other arm; at the end: ours less the paper's" if compared else ""
    parts.legend(figure, _handles(tables), note)
    return figure


def _settings(tables: Tables) -> Figure:
    """Draw test accuracy against steps, a row per initialization and a column per rate; that for both is framed."""
    score, compared = tables["score"], _compared(tables)
    norms, rates = levels(score, "norm"), levels(score, "lr")
    names = sorted(levels(score, "initialization"), key=lambda n: float(n[4:]) if n.startswith("std ") else math.inf)
    figure, axes = parts.grid(len(names), len(rates), (1.6, 1.5), sharex=True, sharey=True)
    framed = [setting for _, *setting, _ in rows(tables["chosen"], COMMON).index]
    for (row, column), ax in np.ndenumerate(axes):
        setting = [names[row], rates[column]]
        for i, norm in enumerate(norms):
            _draw_arm(ax, tables, (norm, *setting), linewidth=1.3)
            shown = estimate(score, norm, *setting, LARGEST if compared else FINAL)
            box: Any = {"ha": "right", "bbox": {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}}
            number, place = f"{shown.value:.3f}" if shown.n else "", (0.96, 0.06 + 0.14 * i)
            ax.text(*place, number, transform=ax.transAxes, fontsize=7, color=parts.style(norm, norms)["color"], **box)
        if setting in framed:
            ax.add_patch(_frame((0, 0), transform=ax.transAxes))
        ax.set(ylabel=names[row])
        if row == 0:
            ax.set_title(f"rate {rates[column]:g}", fontsize=9)
        ax.label_outer()
    axes[0, 0].set_ylim(FLOOR if compared else 0, 1)
    figure.supylabel(f"{axis_label('run', 'test_accuracy')}, by initialization", fontsize=10)
    title = f"number: {LARGEST} from the paper's curve" if compared else f"number: {FINAL}"
    parts.legend(figure, _handles(tables), f"framed: the best setting for both arms; {title}" if framed else title)
    return figure


def _compared(tables: Tables) -> bool:
    return LARGEST in tables["score"].index.get_level_values("quantity")


def _draw_arm(ax: Axes, tables: Tables, setting: tuple[Any, ...], **changes: Any) -> None:
    """Draw our curves of one setting, over the paper's where they can be compared."""
    norm, curves = setting[0], tables["curves"]
    if _compared(tables) and norm in SERIES:
        ax.plot(rows(tables["printed"], norm)["value"], **PRINTED_LOOK[norm] | {"label": None})
    norms = levels(tables["score"], "norm")
    look = parts.style(norm, norms) | {"marker": None} | changes
    parts.line(ax, rows(curves, *setting), look)
    parts.crosses(ax, rows(tables["diverged_at"], *setting)["value"], look, 0.05 + 0.1 * norms.index(norm))
    parts.axis_of_steps(ax, curves.index.get_level_values("step").max(), logarithmic=False)


def _handles(tables: Tables) -> list[Artist]:
    diverged = tables["score"].query("quantity == @DIVERGED")
    printed = [norm for norm in SERIES if norm in levels(diverged, "norm") and _compared(tables)]
    paper = [Line2D([], [], **PRINTED_LOOK[norm]) for norm in printed]
    return [*paper, *parts.arms_and_seeds(diverged, marker="")]


def _typical_inputs(tables: Tables, norms: Sequence[str]) -> Figure:
    """Draw Figure 1(b, c): of each arm, our typical unit, the one by the other rule, and the paper's."""
    figure, axes = parts.grid(3, len(norms), (4.3, 2.6), sharex=True, sharey=True)
    for column, norm in zip(axes.T, norms, strict=True):
        found: Any = rows(tables["typical"], norm)["value"]
        typical = found.iloc[np.argsort(found.index.get_level_values("setting") == PAPER, kind="stable")]
        for ax, ((setting, rule), unit) in zip(column, typical.items(), strict=True):
            parts.line(ax, rows(tables["inputs"], norm, setting, int(unit)), _median_of(norm), linewidth=1.3)
            name = ": " if setting == PAPER else f", {rule}: unit {unit:.0f}\n"
            ax.set_title(f"{parts.style(norm)['label']}{name}{setting}")
            ax.set(xlabel="fraction of training", ylabel="input of one sigmoid", xlim=(0, 1))
            ax.label_outer()
    note = "typical: the unit in the middle of all by the range of its smoothed median; by changes: by the sum of all"
    parts.legend(figure, _median_and_band(), f"{note} changes of its median, which is mostly jitter")
    return figure


OF_UNITS: dict[str, dict[str, Any]] = {
    MEDIAN: {"color": "black", "marker": "o", "label": "median of all units, with interval"},
    TYPICAL: {"color": "#0072B2", "marker": "s", "label": "typical unit"},
    JITTERY: {"color": "#D55E00", "marker": "D", "label": "typical unit by changes"},
    PAPER: {"color": "0.5", "marker": "*", "markersize": 9, "label": "the paper's unit"},
}


def _stability(compared: pd.DataFrame) -> Figure:
    """Draw each ratio of drift, with batch norm over without: as it is, and relative to the spread."""
    titles = {"": "drift of the median", RELATIVE: "relative to the spread"}
    figure, axes = parts.panels([*titles.values()], (4.3, 3.9), sharex=True, sharey=True)
    places = {kind: -float(i) for i, kind in enumerate(KINDS)}
    for ax, suffix in zip(axes, titles, strict=True):
        for i, (unit, look) in enumerate(OF_UNITS.items()):
            of: Any = rows(compared, unit).droplevel("setting")
            at = {place - 0.16 * i: of.loc[window, curve, q + suffix] for (window, curve, q), place in places.items()}
            table = pd.DataFrame(at).T.rename_axis("at").astype({"n": int, "bound": int})
            parts.points(ax, table, look | {"linestyle": "", "markersize": look.get("markersize", 5)}, along="x")
        ax.axvline(1, **parts.REFERENCE)
        parts.axis_of_ratios(ax.xaxis)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.set(xlabel="with batch norm over without")
    parts.label_rows(axes, "kind of drift")
    labels = [f"{quantity}, {curve}, {window}" for window, curve, quantity in KINDS]
    axes[0].set_yticks([place - 0.24 for place in places.values()], labels)
    handles = [Line2D([], [], **{"markersize": 5} | look | {"linestyle": ""}) for look in OF_UNITS.values()]
    parts.legend(figure, handles, "left of 1: calmer with batch norm")
    return figure


def _all_inputs(tables: Tables, norm: str) -> Figure:
    """Draw the inputs of every unit of the last hidden layer, from least to most drift; the typical ones framed.

    The panels lie in one Axes, a unit square each, since a hundred Axes take minutes.
    """
    setting = rows(tables["inputs"], norm).index.unique("setting")[0]
    table, typical = rows(tables["inputs"], norm, setting), rows(tables["typical"], norm, setting)["value"]
    units, low = table.index.unique("unit"), table["low"].min()
    span, height, pitch = table["high"].max() - low, math.ceil(len(units) / 10), 1.1
    figure, ((ax,),) = parts.grid(1, 1, (7.2, 0.5 * height + 0.1))
    ax.set(xlim=(-0.02, 9 * pitch + 1.02), ylim=((1 - height) * pitch - 0.02, 1.02))
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    for i, unit in enumerate(units):
        x, y, band = pitch * (i % 10), -pitch * (i // 10), rows(table, unit)
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor="0.95"))
        scaled = band.assign(**{end: y + (band[end] - low) / span for end in ("value", "low", "high")})
        parts.line(ax, scaled.set_axis(x + band.index), _median_of(norm), linewidth=0.7, antialiased=False)
        ax.text(x + 0.03, y + 0.96, f"{unit}", va="top", fontsize=6)
        if unit == typical[JITTERY]:
            ax.add_patch(_frame((x, y), linestyle=":", linewidth=1.5))
        if unit == typical[TYPICAL]:
            ax.add_patch(_frame((x, y)))
    ticks = [v for v in MaxNLocator(3).tick_values(low, low + span) if low <= v <= low + span]
    places = [(v - low) / span - pitch * row for row in range(height) for v in ticks]
    ax.set_yticks(places, [f"{v:g}".replace("-", "−") for v in ticks] * height, fontsize=6)
    ax.set_xticks([pitch * column + x for column in range(10) for x in (0, 0.5)], ["0", "0.5"] * 10, fontsize=6)
    ax.set(xlabel="fraction of training", ylabel="input of the sigmoid")
    order = "in order of the range of the smoothed median, the typical unit framed, that by changes dotted"
    title = f"{parts.style(norm)['label']}, {setting}; {order}"
    parts.legend(figure, _median_and_band(), title)
    return figure


def _median_of(norm: str) -> dict[str, Any]:
    return parts.style(norm) | {"marker": None, "linestyle": "-"}


def _median_and_band() -> list[Artist]:
    band = Patch(color="0.5", alpha=0.3, linewidth=0, label="15th to 85th percentile, over fixed training images")
    return [Line2D([], [], color="0.3", label="median"), band]


def _frame(corner: tuple[float, float], **look: Any) -> Rectangle:
    return Rectangle(corner, 1, 1, fill=False, edgecolor="0.2", clip_on=False, **{"linewidth": 2} | look)


def _nearness(tables: Tables) -> list[Finding]:
    """Return how far each arm is from its curve at the one setting, and how much less than from the other's."""
    common = rows(tables["chosen"], COMMON)
    found = {(norm, quantity): Estimate(*row) for (norm, _, _, quantity), *row in common.itertuples()}
    return [
        analysis.below(f"{parts.style(norm)['label']}, {q}", found.get((norm, q), analysis.NOTHING), bound)
        for norm in SERIES
        for q, bound in ((LARGEST, BOUND), (CONTROL, 0))
    ]


def _calmer(tables: Tables) -> list[Finding]:
    """Return how much less the unit in the middle drifts with batch norm, by each kind of drift."""
    found = rows(tables["compared"], MEDIAN).droplevel("setting")
    return [
        analysis.below(f"{quantity} of the {curve} median, {window}", estimate(found, window, curve, quantity), 1)
        for window, curve, quantity in KINDS
        if len(found)
    ]


def _less_tuning(tables: Tables) -> list[Finding]:
    """Return how many more settings train with batch norm."""
    return [analysis.beyond(GAIN, estimate(tables["tuning"], "batch", TRAINED, GAIN), 0)]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="4.1a",
            section="Section 4.1, Figure 1(a)",
            sentence="The network of three hidden layers of 100 sigmoids on MNIST has the test accuracy that Figure "
            "1(a) shows, without and with batch norm.",
            criterion="At the one setting at which the farther of both arms is nearest, each arm's mean curve, once "
            "settled, differs from the paper's by at most 0.01 and by less than from that of the other arm, with its "
            "whole interval.",
            findings=_nearness,
            figure="figure1a",
        ),
        Claim(
            id="4.1b",
            section="Section 4.1, Figure 1(b, c)",
            sentence="With batch norm the distribution of what enters a sigmoid is more stable during training.",
            criterion="Of the unit in the middle of all, the range of the median of its input, and the sum of all "
            "changes of this median, are with batch norm at most what they are without, with the whole interval of "
            "each ratio: of the median as measured and smoothed, over all of training and after its first tenth.",
            findings=_calmer,
            figure="figure1bc",
            paper="one sigmoid: range 0.154 / 1.16 smoothed, 0.333 / 1.34 measured; changes 0.965 / 3.09, 7.77 / 12.1",
        ),
        Claim(
            id="I3",
            section="Section 1",
            sentence="Plain gradient descent needs a careful choice of learning rate and initial parameters.",
            criterion="Of all settings of learning rate and initialization, the share that ends at 90% or more is "
            "smaller without batch norm than with it, with its whole interval.",
            findings=_less_tuning,
            figure="settings",
        ),
    ],
    arms=["norm", "model.init", "lr", "diagnostics", "train.measurements"],
    needs=["run.test_accuracy"],
    uses=[f"unit.{percentile}" for percentile in PERCENTILES],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
