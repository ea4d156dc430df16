"""Does the paper's Figure 1 come out again, over what the paper leaves unsaid: learning rate and initial weights?

Figure 1 (Section 4.1) shows a network of three hidden layers of 100 sigmoids on binary MNIST: (a) its test accuracy,
(b, c) what enters one typical sigmoid of the last hidden layer, without and with batch normalization. Only MNIST and
the paper's 50,000 steps can be compared with it: ``python -m bnrepro +sweep=figure1 dataset=mnist``.

- ``score``, of each setting: final accuracy is the mean over seeds, a diverged run having 0. Differences from the paper
  are |a(t) − a'(t)| at its steps t, where a is the mean over seeds of our test accuracy, linearly interpolated, and a'
  the paper's: the largest once its curve has settled (from step 12,000 on without batch norm, 8,000 with), and the mean
  over all. Crossed, a' is the paper's curve of the other arm. There are none if a run diverged. The noise that is left
  in a mean of few seeds makes the largest difference larger.
- ``chosen``, of the nearest settings: one for both arms, at which the larger of their differences is least, and each
  arm's own; then both for the paper's two curves swapped. Where nothing can be compared, the most accurate settings.
- ``drift``, of what enters a sigmoid: the sum of all changes of its median from one measurement to the next, and the
  range of the median; over all of training, and after its first tenth (step 5,000). The typical unit is that of median
  drift, by the sum. The sum grows with the number of measurements and their noise, the range hardly. The ratio with
  batch norm over without is of the medians over all units, paired by seed.
- ``tuning``: the share of the grid's settings at which an arm ends at 90% or more.

Some setting of either arm is as near to the other arm's curve as to its own, so each arm's nearest tells nothing; one
setting for both can tell the arms apart, and on it the verdict rests. That it is chosen on the same runs is not in the
intervals: the paper's curves can be had with an ordinary setting, which need not be the paper's.
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
from matplotlib.ticker import MaxNLocator

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
BOUND = 0.01
"""The largest difference that still is the paper's curve: about what its two curves differ by, once settled."""
FLOOR = 0.7
"""The accuracy at which the paper's axis begins."""
LATE = 0.1
"""The fraction of training after which drift is measured once more."""
SETTING = ["norm", "initialization", "lr"]
PERCENTILES = ["p50", "p15", "p85"]
FINAL, DIVERGED, LARGEST, MEAN = "final accuracy", "diverged", "largest difference", "mean difference"
TRAINED = 0.9
"""The final accuracy from which a network counts as trained."""
SHARE, GAIN, RATIO = "share of settings that train", "gain in that share", "ratio"
CROSSED, CONTROL = "crossed difference", "largest less crossed"
COMMON, OWN, SWAPPED = "one for both", "each its own", ", swapped"
PAPER = "the paper's"


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
    std = runs["model.init.std"].astype(float)
    runs["initialization"] = std.map("std {:g}".format).where(std.notna(), runs["model.init.scheme"])
    units = results.table("units").reindex(columns=["run_id", "step", "unit", *PERCENTILES])
    units = units.replace([math.inf, -math.inf], math.nan).dropna(ignore_index=True)
    has_units = runs["run_id"].isin(units["run_id"])
    # A run with units, or measured more often than another of its setting and seed, repeats one of the grid.
    seldom = runs["train.measurements"] == runs.groupby([*SETTING, "seed"])["train.measurements"].transform("min")
    grid = runs[seldom & (~has_units | bool(has_units.all()))]
    score = analysis.table(dict(_score(analysis.cells(grid, SETTING), curves)), [*SETTING, "quantity"])
    settings = score.droplevel("quantity").index
    chosen = {choice: score[settings.isin(those)] for choice, those in _choose(score).items()}
    drift, inputs = _of_units(runs[has_units], units)
    shown = curves[["run_id", "step", "test_accuracy"]].merge(grid[["run_id", *SETTING]])
    printed = {(norm, step): Estimate(a) for norm, curve in PRINTED.items() for step, a in curve.items()}
    return {
        "score": score,
        "chosen": pd.concat(chosen, names=["choice"]),
        "tuning": analysis.table(dict(_tuning(grid)), ["norm", "quantity"]),
        "drift": analysis.table(drift, ["norm", "unit", "setting", "quantity"]),
        "curves": analysis.spread(shown, "test_accuracy", [*SETTING, "step"]),
        "diverged_at": analysis.spread(grid, "diverged_at", [*SETTING, "seed"]),
        "printed": analysis.table(printed, ["norm", "step"]),
        "inputs": analysis.table(inputs, ["norm", "setting", "unit", "fraction"]),
    }


def _score(cells: Mapping[Any, pd.DataFrame], curves: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], Estimate]]:
    accuracy = dict(iter(curves.set_index("step").groupby("run_id")["test_accuracy"]))
    length = max(curve.index[-1] for curve in PRINTED.values())
    for key, cell in cells.items():
        yield (*key, FINAL), analysis.mean(cell["accuracy"])
        yield (*key, DIVERGED), analysis.share(cell["diverged"])
        whole = not cell["diverged"].any() and cell["steps"].min() >= length
        if key[0] in SERIES and whole and cell["dataset"].eq("mnist").all():
            seeds = [_differences(accuracy[run_id]) for run_id in cell["run_id"]]
            for quantity, statistic in _statistics(key[0]).items():
                yield (*key, quantity), analysis.jackknife(statistic, seeds)


def _tuning(grid: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Estimate]]:
    """Return the share of settings, of those that a seed has of both arms, at which each arm trains."""
    wide = grid.pivot_table("accuracy", [*SETTING[1:], "seed"], "norm").dropna()
    trained = (wide >= TRAINED).astype(float)
    shares = {norm: trained[norm].groupby("seed").mean() for norm in trained}
    for norm in (norm for norm in SERIES if norm in shares):
        yield (norm, SHARE), analysis.mean(shares[norm])
    if shares.keys() >= SERIES.keys():
        yield ("batch", GAIN), analysis.difference(shares["batch"], shares["none"])


def _differences(curve: pd.Series) -> pd.DataFrame:
    """Return our curve less the paper's, in one row, by the paper's arm and steps."""
    found = {norm: np.interp(paper.index, curve.index, curve) - paper for norm, paper in PRINTED.items()}
    return pd.DataFrame([pd.concat(found)])


def _statistics(norm: str) -> dict[str, Callable[[pd.DataFrame], float]]:
    """Return what is computed of the differences of several seeds, a row each."""

    def largest(seeds: pd.DataFrame, arm: str) -> float:
        return float(seeds.mean()[arm].loc[SETTLED[arm] :].abs().max())

    return {
        LARGEST: lambda seeds: largest(seeds, norm),
        MEAN: lambda seeds: seeds.mean()[norm].abs().mean(),
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


def _of_units(runs: pd.DataFrame, units: pd.DataFrame) -> tuple[dict[Any, Estimate], dict[Any, Estimate]]:
    """Return the rows of ``drift`` and ``inputs``, of each norm at the first of the settings measured most often.

    The inputs are of the first seed, units in order of drift.
    """
    fraction = units["step"] / units["run_id"].map(runs.set_index("run_id")["steps"])
    units = units.assign(fraction=fraction).set_index(["unit", "fraction"])
    bands = {run_id: band[PERCENTILES] for run_id, band in units.groupby("run_id")}
    drift, inputs = dict[Any, Estimate](), dict[Any, Estimate]()
    medians = dict[tuple[str, str], pd.DataFrame]()
    same = ["train.measurements", "initialization", "lr"]
    runs = runs.sort_values([*same, "seed"], ascending=[False, True, True, True])
    for norm, members in groups(runs, ["norm"]).items():
        seeds = next(part for _, part in members.groupby(same, sort=False)).drop_duplicates("seed")
        first, ended = seeds.iloc[0], ~seeds["diverged"].to_numpy()
        setting = _spell(first["initialization"], first["lr"])
        drifts = [_drift(bands[run_id]) for run_id in seeds["run_id"]]
        typical, middle = [each.loc[_typical(each)] for each in drifts], [each.median() for each in drifts]
        for unit, found in (("typical", typical), ("median of all", middle)):
            drift |= {(norm, unit, setting, q): analysis.mean(x[ended]) for q, x in pd.DataFrame(found).items()}
        medians[norm, setting] = pd.DataFrame(middle).set_axis(seeds["seed"])[ended]
        if (plain := medians.get(("none", setting))) is not None and norm == "batch":
            for quantity, of_seeds in medians[norm, setting].items():
                ratio = analysis.ratio(of_seeds, plain[quantity])
                drift[norm, "median of all", setting, f"{quantity}, {RATIO}"] = ratio
        title = f"{setting}, seed {first['seed']}" + ("" if ended[0] else ", diverged")
        shown = {title: bands[first["run_id"]].loc[drifts[0].index]}
        if norm in SERIES:
            shown[PAPER] = PRINTED_INPUTS[norm]
            drift |= {(norm, PAPER, "not stated", q): Estimate(x.loc[0]) for q, x in _drift(shown[PAPER]).items()}
        inputs |= {(norm, title, *at): Estimate(*p) for title, band in shown.items() for at, *p in band.itertuples()}
    return drift, inputs


def _drift(band: pd.DataFrame) -> pd.DataFrame:
    """Return how the median of each unit moved, units in order of the sum of all changes."""
    medians = band["p50"].sort_index()
    late = medians[medians.index.get_level_values("fraction") >= LATE]
    found = {}
    for after, part in (("", medians), (" after a tenth", late)):
        units = part.groupby("unit")
        found[f"changes{after}"] = units.diff().abs().groupby("unit").sum(min_count=1)
        found[f"range{after}"] = units.max() - units.min()
    return pd.DataFrame(found).sort_values("changes", kind="stable")


def _typical(table: pd.DataFrame) -> Any:
    """Return the unit in the middle of those in order of drift, the lower of two."""
    units = table.index.unique("unit")
    return units[(len(units) - 1) // 2]


def _spell(initialization: str, lr: float) -> str:
    return f"{initialization}, learning rate {lr:g}"


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw Figure 1(a) where it came nearest, all ``settings`` and, if measured, Figure 1(b, c) and all ``units``."""
    inputs = tables["inputs"]
    drawn = {"figure1a": _accuracy(tables), "settings": _settings(tables)}
    if norms := [norm for norm in levels(inputs, "norm") if norm in SERIES]:
        drawn["figure1bc"] = _typical_inputs(inputs, norms)
    return drawn | {f"units-{norm}": _all_inputs(inputs, norm) for norm in levels(inputs, "norm")}


def _accuracy(tables: Tables) -> Figure:
    """Draw Figure 1(a): both arms at the best setting that they have in common, and each at its own."""
    chosen, compared = tables["chosen"], _compared(tables)
    choices = {COMMON: "one setting for both arms", OWN: "each arm at its own setting"}
    choices = {choice: title for choice, title in choices.items() if len(rows(chosen, choice))}
    figure, axes = parts.panels([*choices.values()], (5, 3.9), sharex=True, sharey=True)
    for ax, choice in zip(axes, choices, strict=True):
        for norm, *setting in rows(chosen, choice).droplevel("quantity").index.unique():
            own, crossed = (estimate(chosen, choice, norm, *setting, q) for q in (LARGEST, CROSSED))
            distance = f"\n{spell(own)}\ncrossed {crossed.value:.3f}" if own.n else ""
            _draw_arm(ax, tables, (norm, *setting), label=_spell(*setting) + distance)
        title = "largest difference\nfrom the paper's curve" if compared else "most accurate"
        ax.legend(loc="lower right", title=title, fontsize=7.5, title_fontsize=7.5)
    axes[0].set(ylabel=axis_label("run", "test_accuracy"), ylim=(FLOOR if compared else 0, 1))
    note = "crossed: from the paper's curve of the other arm" if compared else ""
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


def _typical_inputs(inputs: pd.DataFrame, norms: Sequence[str]) -> Figure:
    """Draw Figure 1(b, c): the typical unit of each arm of ours, and below it the paper's."""
    figure, axes = parts.grid(2, len(norms), (4.3, 2.9), sharex=True, sharey=True)
    for column, norm in zip(axes.T, norms, strict=True):
        for ax, (setting, units) in zip(column, rows(inputs, norm).groupby("setting", sort=False), strict=True):
            unit = _typical(units)
            parts.line(ax, rows(units, setting, unit), _median_of(norm), linewidth=1.3)
            name = f", unit {unit}\n" if unit else ": "
            ax.set_title(f"{parts.style(norm)['label']}{name}{setting}")
            ax.set(xlabel="fraction of training", ylabel="input of one sigmoid", xlim=(0, 1))
            ax.label_outer()
    parts.legend(
        figure, _median_and_band(), "ours: the unit of median drift, which is the sum of all changes of its median"
    )
    return figure


def _all_inputs(inputs: pd.DataFrame, norm: str) -> Figure:
    """Draw the inputs of every unit of the last hidden layer, from least to most drift; the typical one framed.

    The panels lie in one Axes, a unit square each, since a hundred Axes take minutes.
    """
    setting = rows(inputs, norm).index.unique("setting")[0]
    table = rows(inputs, norm, setting)
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
        if unit == _typical(table):
            ax.add_patch(_frame((x, y)))
    ticks = [v for v in MaxNLocator(3).tick_values(low, low + span) if low <= v <= low + span]
    places = [(v - low) / span - pitch * row for row in range(height) for v in ticks]
    ax.set_yticks(places, [f"{v:g}".replace("-", "−") for v in ticks] * height, fontsize=6)
    ax.set_xticks([pitch * column + x for column in range(10) for x in (0, 0.5)], ["0", "0.5"] * 10, fontsize=6)
    ax.set(xlabel="fraction of training", ylabel="input of the sigmoid")
    title = f"{parts.style(norm)['label']}, {setting}; in order of drift, the typical unit framed"
    parts.legend(figure, _median_and_band(), title)
    return figure


def _median_of(norm: str) -> dict[str, Any]:
    return parts.style(norm) | {"marker": None, "linestyle": "-"}


def _median_and_band() -> list[Artist]:
    band = Patch(color="0.5", alpha=0.3, linewidth=0, label="15th to 85th percentile, over fixed training images")
    return [Line2D([], [], color="0.3", label="median"), band]


def _frame(corner: tuple[float, float], **look: Any) -> Rectangle:
    return Rectangle(corner, 1, 1, fill=False, edgecolor="0.2", clip_on=False, linewidth=2, **look)


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
    """Return how much less the median unit drifts with batch norm."""
    found = rows(tables["drift"].swaplevel("setting", "quantity"), "batch", "median of all")
    return [
        analysis.below(f"{quantity} of the median, with batch norm over without", Estimate(*row), 1)
        for quantity in ("changes", "range")
        for row in rows(found, f"{quantity}, {RATIO}").itertuples(index=False)
    ]


def _less_tuning(tables: Tables) -> list[Finding]:
    """Return how many more settings train with batch norm."""
    return [analysis.beyond(GAIN, estimate(tables["tuning"], "batch", GAIN), 0)]


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
            criterion="Of the unit in the middle of all, the sum of all changes of the median of its input, and the "
            "range of this median, are with batch norm at most what they are without, with the whole interval of both "
            "ratios.",
            findings=_calmer,
            figure="figure1bc",
            paper="7.8 / 12.1 and 0.33 / 1.34, of one sigmoid",
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
