"""The parts that figures are made of, in one look: for print, in grey, for the colour-blind; the same bytes every time.

Lines and bands are drawn from tables of :mod:`bnrepro.analysis`: ``value`` as a line, from ``low`` to ``high`` a band.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import textwrap
import threading
import uuid
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.scale import FuncScale
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator
from PIL import Image

from .analysis import levels, rows
from .diagnostics import axis_label
from .errors import InputError

if TYPE_CHECKING:
    from .store import Results

LOOK: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "svg.fonttype": "none",  # text that can be searched and read aloud
    "pdf.fonttype": 42,  # text that can be edited
}

ALWAYS: Any = {
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "bnrepro",  # else ids in the file are random
}
"""What no style sheet changes."""

NORMS: dict[str, dict[str, Any]] = {
    "none": {"color": "#D55E00", "linestyle": "--", "marker": "o", "label": "without batch norm"},
    "batch": {"color": "#0072B2", "linestyle": "-", "marker": "s", "label": "with batch norm"},
}
"""Colours of Okabe & Ito; line and marker tell the arms apart without them."""

OTHERS: Sequence[dict[str, Any]] = [
    {"color": "#009E73", "linestyle": "-.", "marker": "*"},
    {"color": "#CC79A7", "linestyle": ":", "marker": "D"},
    {"color": "#E69F00", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "p"},
    {"color": "#56B4E9", "linestyle": (0, (8, 2)), "marker": "P"},
    {"color": "#000000", "linestyle": (0, (9, 2, 2, 2)), "marker": "h"},
    {"color": "#641400", "linestyle": (0, (1, 3)), "marker": "d"},
]
"""The looks of arms that are not ours; the last colour is darker than theirs. Triangles are no markers, but bounds."""

ACTIVATIONS = {"sigmoid": "sigmoid", "relu": "ReLU"}

REFERENCE: Any = {"color": "0.4", "linestyle": ":", "linewidth": 0.9}
"""The look of a line to compare with."""

FORMATS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""The formats of figures, and what they must not say of when and with what they were drawn."""

LEAST_HEIGHT = 0.7
"""The share of its height that a panel keeps, however narrow it is."""

CHARACTERS_PER_INCH = 12
"""The number of characters of 10 points that fit into an inch."""

MOST_TICKS = 9
"""Values of a setting, each of which an axis has a tick for."""

_wanted: dict[str, Any] = {"width": None, "note": ""}


@contextmanager
def look(width: float | None = None, style: str | None = None, note: str = "") -> Iterator[None]:
    """Draw in the project's look, whatever the user's own matplotlibrc says.

    Args:
        width: of every figure, in inches; None for its own. Text keeps its size.
        style: a matplotlib style sheet, by name or path, that changes the look.
        note: what every legend begins with.

    Raises:
        InputError: if there is no such style sheet.
    """
    before = dict(_wanted)
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(LOOK)
        if style is not None:
            try:
                matplotlib.style.use(style)
            except OSError as error:
                raise InputError(
                    f"figures.style={style}: must be a matplotlib style sheet, a file or one of its names"
                ) from error
        mpl.rcParams.update(ALWAYS)
        _wanted.update(width=width, note=note)
        try:
            yield
        finally:
            _wanted.update(before)


def style(norm: str, norms: Iterable[str] = ()) -> dict[str, Any]:
    """Return the look of an arm; any norm but ours has its own name, and a look by its place among ``norms``.

    Where there are more than ``OTHERS``, colours come again, each time with another of their lines and markers.
    """
    if norm in NORMS:
        return NORMS[norm]
    others = [each for each in norms if each not in NORMS]
    again, place = divmod(others.index(norm) if norm in others else 0, len(OTHERS))
    return {**OTHERS[(place + again) % len(OTHERS)], "color": OTHERS[place]["color"], "label": norm}


def activation_label(activation: str) -> str:
    """Return the activation as the field writes it."""
    return ACTIVATIONS.get(activation, activation)


# Panels


def panels(
    titles: Sequence[str], size: tuple[float, float], most: int | None = None, **share: Any
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a panel for each title: beside one another, as many as the figure's width allows.

    Args:
        titles: of the panels.
        size: of a panel in inches, where the figure may have the width that it needs; at half its width, fewer panels
            are beside one another.
        most: how many are beside one another at most; None for all.
        share: ``sharex`` and ``sharey`` of the panels.
    """
    width = _wanted["width"]
    columns = min(len(titles), most or len(titles))
    columns = columns if width is None else max(1, min(columns, int(2 * width / size[0])))
    figure, axes = grid(math.ceil(len(titles) / columns), columns, size, **share)
    for ax in axes.flat[len(titles) :]:
        ax.remove()
    for ax, title in zip(axes.flat, titles, strict=False):
        ax.set_title(title)
    for ax in axes.flat[max(0, len(titles) - columns) : len(titles)]:
        ax.xaxis.set_tick_params(labelbottom=True)  # numbers of a shared axis are in the last row, which may be short
    return figure, list(axes.flat[: len(titles)])


def grid(rows: int, columns: int, size: tuple[float, float], **share: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure with rows and columns of panels, and the panels.

    Args:
        rows: of panels.
        columns: of panels.
        size: of a panel in inches, where the figure may have the width that it needs; else it is smaller in proportion,
            but no flatter than ``LEAST_HEIGHT`` of that.
        share: what ``Figure.subplots`` takes.
    """
    natural = columns * size[0] + 0.4
    width = natural if _wanted["width"] is None else _wanted["width"]
    figure = Figure(figsize=(width, rows * size[1] * max(width / natural, LEAST_HEIGHT) + 0.8))
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def label_rows(axes: Iterable[Axes], label: str) -> None:
    """Label the y axis of the first panel of each row."""
    for ax in axes:
        if (place := ax.get_subplotspec()) and place.is_first_col():
            ax.set_ylabel(label)


# Lines, bands, crosses

ALL_DIVERGED, SOME_DIVERGED = 1.8, 0.7
"""The strokes of a cross, in points: where every seed diverged, and where some did."""


def line(ax: Axes, table: pd.DataFrame, look: dict[str, Any], **changes: Any) -> None:
    """Draw ``value`` against the index of a table as a line, and ``low`` to ``high`` as a band around it."""
    table = table.sort_index()
    (drawn,) = ax.plot(table.index, table["value"], **look | changes)
    if (table["low"] < table["high"]).any():
        ax.fill_between(table.index, table["low"], table["high"], color=drawn.get_color(), alpha=0.18, linewidth=0)


def points(ax: Axes, table: pd.DataFrame, look: dict[str, Any], along: Literal["x", "y"] = "y", **changes: Any) -> None:
    """Draw ``value`` against the index of a table as points with intervals; a bound as a triangle in its direction.

    Args:
        ax: a panel.
        table: of estimates, indexed by numbers.
        look: of the points.
        along: the axis of ``value``.
        changes: to the look.
    """
    across, triangles = ("x", {1: "^", -1: "v"}) if along == "y" else ("y", {1: ">", -1: "<"})
    for at, value, low, high, _, bound in table.reset_index().itertuples(index=False):
        ends = np.abs(np.array([[low], [high]]) - value)
        known = np.isfinite(ends)
        where: Any = {across: at, along: value, f"{along}err": np.where(known, ends, 0) if known.any() else None}
        ax.errorbar(**where, **look | changes | ({"marker": triangles[bound]} if bound else {}))


def crosses(
    ax: Axes, at: Iterable[float], look: dict[str, Any], height: float = 0.05, stroke: float = ALL_DIVERGED
) -> None:
    """Draw a cross for each run that diverged, ``height`` being a share of that of the panel."""
    where: Any = {"transform": ax.get_xaxis_transform(), "clip_on": False}
    if x := [*at]:  # without any, constrained layout would make room for a cross at the figure's corner
        ax.plot(x, [height] * len(x), "x", color=look.get("color"), markersize=6.5, markeredgewidth=stroke, **where)


def crosses_of(ax: Axes, shares: pd.DataFrame, look: dict[str, Any], height: float = 0.05) -> None:
    """Draw a cross where runs diverged, a thin one where only some of the seeds did.

    Args:
        ax: a panel.
        shares: a table of shares of the seeds that diverged, indexed by what is on the x axis.
        look: of the arm.
        height: a share of that of the panel.
    """
    share = shares["value"]
    crosses(ax, shares.index[share == 1], look, height)
    crosses(ax, shares.index[(share > 0) & (share < 1)], look, height, SOME_DIVERGED)


# Axes


def axis_of_steps(ax: Axes, last: float, *, logarithmic: bool = True) -> None:
    """Let the x axis be of training steps from 0 to the last; logarithmic from 10 on, or in thousands."""
    if logarithmic:
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlabel("steps (linear to 10, then log)")
    else:
        ax.xaxis.set_major_formatter(thousands)
        ax.set_xlabel("steps")
    ax.set_xlim(0, last)


def thousands(step: float, position: object = None) -> str:
    """Write steps as the paper does: 10K."""
    return f"{step / 1000:g}K" if step >= 1000 else f"{step:g}"


def axis_of_accuracy(ax: Axes, highest: float, bottom: float = 0.0, along: Literal["x", "y"] = "y") -> None:
    """Space accuracy by the logarithm of the error, so that 0.97 and 0.98 are as far apart as 0.4 and 0.6.

    Args:
        ax: a panel.
        highest: the highest accuracy that is drawn.
        bottom: the accuracy at which the axis begins; below 0 there is room for what has none.
        along: the axis.
    """
    smallest = 1e-4
    functions = (lambda accuracy: -np.log10(np.clip(1 - accuracy, smallest, None)), lambda y: 1 - 10.0**-y)
    axis, spine = (ax.yaxis, ax.spines["left"]) if along == "y" else (ax.xaxis, ax.spines["bottom"])
    ax.set(**{f"{along}scale": FuncScale(axis, functions)})
    error = max(1 - np.fmax(highest, 0.5), smallest)
    low = (0, 0.2, 0.4, 0.5, 0.6, 0.7) if error > 0.2 else (0, 0.5)
    ticks = [a for a in (*low, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999) if 1 - a > 0.85 * error]
    axis.set_ticks(ticks, labels=[f"{a:g}" for a in ticks], fontsize=None if along == "y" else 8)
    ax.set(**{f"{along}lim": (bottom, 1 - 0.85 * error)})
    spine.set_bounds(0, 1 - 0.85 * error)


def axes_of_curves(axes: Sequence[Axes], curves: pd.DataFrame) -> None:
    """Let panels, which share their y axis, be of test accuracy against steps, as far as a table of curves goes."""
    for ax in axes:
        axis_of_steps(ax, curves.index.get_level_values("step").max())
    label_rows(axes, axis_label("run", "test_accuracy"))
    axis_of_accuracy(axes[0], curves["value"].max())


class RatioLocator(LogLocator):
    """Ticks that are close enough for ratios near 1, and far enough apart for their labels over several decades."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the ticks from vmin to vmax, both above 0: 6, 3, 2 or 1 per decade."""
        dense = {1.3: (1, 1.5, 2, 3, 5, 7), 2.2: (1, 2, 5), 3.5: (1, 3)}
        decades = math.log10(vmax / vmin)
        self.set_params(subs=next((subs for most, subs in dense.items() if decades < most), (1,)))
        return super().tick_values(vmin, vmax)


def axis_of_ratios(axis: Axis) -> None:
    """Let an axis be logarithmic, with ticks that are close enough for ratios near 1."""
    axis.axes.set(**{"yscale" if axis is axis.axes.yaxis else "xscale": "log"})
    axis.set_major_locator(RatioLocator())
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def panel_label(key: Iterable[str]) -> str:
    """Return the title of a panel: the activation as the field writes it, and what else it is of."""
    return ", ".join(activation_label(each) for each in key if each)


def accuracy_against(
    setting: str, final: pd.DataFrame, diverged: pd.DataFrame, *, level: float | None = None
) -> Figure:
    """Draw final test accuracy against a setting: a line per norm; diverged runs at the bottom.

    Args:
        setting: the label of its axis, which is logarithmic.
        final: a table of final accuracy, by what makes a panel (as the activation), norm and value of the setting.
        diverged: a table of shares of the seeds that diverged, likewise.
        level: of accuracy, to compare with.
    """
    keys, norms = list(dict.fromkeys(key[:-2] for key in diverged.index)), levels(diverged, "norm")
    most = 2 if len(keys[0]) > 1 else None
    figure, axes = panels([panel_label(key) for key in keys], (4.3, 3.2), most=most, sharey=True)
    values = sorted(diverged.index.unique(-1))
    for ax, key in zip(axes, keys, strict=True):
        for i, norm in enumerate(norms):
            look = style(norm, norms)
            line(ax, rows(final, *key, norm), look, markersize=5)
            crosses_of(ax, rows(diverged, *key, norm), look, height=0.03 + 0.06 * i)
        ax.set(xscale="log", xlabel=setting)
        if len(values) <= MOST_TICKS:
            ax.set_xticks(values, [f"{value:g}" for value in values])
            ax.xaxis.set_minor_locator(NullLocator())
    room = 0.1 + 0.1 * len(norms) if diverged["value"].any() else 0.0
    axis_of_accuracy(axes[0], final["high"].max(), bottom=1 - 10**room)
    label_rows(axes, "final test accuracy")
    handles = arms_and_seeds(diverged, markersize=5)
    if level is not None:
        for ax in axes:
            ax.axhline(level, **REFERENCE)
        handles.append(Line2D([], [], label=f"usable: {level:.0%}", **REFERENCE))
    legend(figure, handles)
    return figure


def curve_of(results: Results) -> Figure:
    """Draw loss and test accuracy of one run against steps, with a cross where it diverged."""
    (run,) = results.runs.to_dict("records")
    curve, diverged = results.table("curves").set_index("step"), run["status"] == "diverged"
    norm = "none" if pd.isna(run["norm"]) else run["norm"]
    figure, axes = panels(["", ""], (4.3, 3.0))
    for ax, column in zip(axes, ("train_loss", "test_accuracy"), strict=True):
        ax.plot(curve.index, curve[column], **style(norm) | {"marker": ".", "clip_on": False})
        axis_of_steps(ax, run["diverged_at"] if diverged else curve.index.max(), logarithmic=False)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_ylabel(axis_label("run", column))
        crosses(ax, [run["diverged_at"]] if diverged else [], style(norm))
    axis_of_ratios(axes[0].yaxis)
    axis_of_accuracy(axes[1], curve["test_accuracy"].max())
    settings = [
        run["dataset"],
        activation_label(run["activation"]),
        f"learning rate {run['lr']:g}",
        f"seed {run['seed']}",
    ]
    ended = f"diverged at step {run['diverged_at']:.0f}" if diverged else f"test accuracy {run['test_accuracy']:.4f}"
    title = f"run {run['run_id']} ({', '.join(each for each in settings if isinstance(each, str))}): {ended}"
    legend(figure, arms([norm], marker="."), title)
    return figure


# Legends


def arms(norms: Iterable[str], **changes: Any) -> list[Artist]:
    """Return what a legend has of arms with and without batch norm."""
    norms = [*norms]
    return [Line2D([], [], **style(norm, norms) | changes) for norm in norms]


def band_over(seeds: int, least: int | None = None) -> list[Artist]:
    """Return what a legend has of lines with bands, of some of them over ``least`` seeds: nothing if there is one."""
    few = f"{least} to " if least not in (None, seeds) else ""
    label = f"range over {few}{seeds} seeds (line: median)"
    return [Patch(color="0.5", alpha=0.3, linewidth=0, label=label)] if seeds > 1 else []


def interval_over(seeds: int) -> list[Artist]:
    """Return what a legend has of means with bands or bars that are intervals: nothing if there is one seed."""
    label = f"95% interval of the mean over {seeds} seeds"
    return [Patch(color="0.5", alpha=0.3, linewidth=0, label=label)] if seeds > 1 else []


def arms_and_seeds(diverged: pd.DataFrame, **changes: Any) -> list[Artist]:
    """Return what a legend has of arms, bands and crosses, by a table of shares of the seeds that diverged."""
    handles = [*arms(levels(diverged, "norm"), **changes), *band_over(diverged["n"].max(), diverged["n"].min())]
    return [*handles, cross()] if diverged["value"].any() else handles


def cross(label: str = "diverged", stroke: float = ALL_DIVERGED) -> Artist:
    """Return what a legend has of crosses."""
    return Line2D([], [], marker="x", linestyle="", color="0.3", markeredgewidth=stroke, label=label)


def _crosses_among(artists: Iterable[Artist]) -> list[Line2D]:
    return [artist for artist in artists if isinstance(artist, Line2D) and artist.get_marker() == "x"]


def legend(figure: Figure, handles: Sequence[Artist], title: str = "") -> None:
    """Draw the legend above the panels, where it hides nothing, in as many columns as fit, below a title.

    Where a panel has a cross, and none of the handles says of what, the legend says that it is of a run that diverged;
    and of thin ones, that some of the seeds did.
    """
    crossed = _crosses_among(line for ax in figure.axes for line in ax.lines)
    strokes = {each.get_markeredgewidth() for each in crossed}
    if strokes - {SOME_DIVERGED} and not _crosses_among(handles):
        handles = [*handles, cross()]
    if SOME_DIVERGED in strokes:
        handles = [*handles, cross("diverged with some seeds", SOME_DIVERGED)]
    width = figure.get_figwidth()
    columns = max(1, min(len(handles), int(width / 2.3)))
    drawn = figure.legend(handles=handles, loc="outside upper center", ncols=columns)
    lines = [part for part in (_wanted["note"], title) if part]
    drawn.set_title("\n".join(textwrap.fill(text, int(13.5 * width)) for text in lines))
    drawn.get_title().set_multialignment("center")


# Files


ABANDONED_SECONDS = 3600
"""The age of an unfinished file, which is written within seconds, beyond which who wrote it was killed."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to in place of ``path``, which gets the file once it is whole and never a torn one.

    The path is nobody else's, so that two who write the same file at once both end well; an exception removes it, and
    the next writer what others left that were killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield partial
        now = partial.stat().st_mtime  # by the clock of that file system
        for left in path.parent.glob(".*.partial"):
            with suppress(OSError):
                if now - left.stat().st_mtime > ABANDONED_SECONDS:
                    left.unlink()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _wrap_labels(figure: Figure) -> None:
    """Break titles and labels that are longer than their panels."""
    for ax in figure.axes:
        spec = ax.get_subplotspec()
        if spec is None:
            continue
        width, height = figure.get_size_inches() / (spec.get_gridspec().ncols, spec.get_gridspec().nrows)
        for text, inches in ((ax.title, width), (ax.xaxis.label, width), (ax.yaxis.label, height)):
            characters = max(8, int(inches * CHARACTERS_PER_INCH * 10 / text.get_fontsize()))
            text.set_text("\n".join(textwrap.fill(line, characters) for line in text.get_text().split("\n")))


def save(figure: Figure, folder: Path, name: str, formats: Iterable[str] = tuple(FORMATS)) -> list[Path]:
    """Write NAME.png, NAME.svg and so on, with nothing in them that depends on when or where."""
    paths = [folder / f"{name}.{kind}" for kind in formats]
    _wrap_labels(figure)
    for path in paths:
        kind = path.suffix[1:]
        with atomic_write(path) as partial:
            figure.savefig(partial, format=kind, metadata=FORMATS[kind])
            if kind == "png":
                _with_a_palette(partial)
        with mpl.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)  # laid out once, for all formats; "none" would still draw each twice
    return paths


def _with_a_palette(png: Path) -> None:
    """Keep 256 colours of an image, which figures hardly exceed: it takes a third of the space then."""
    with Image.open(png) as drawn:
        few = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(png, format="png", optimize=True, dpi=drawn.info["dpi"])


def save_all(figures: Mapping[str, Figure], folder: Path, formats: Collection[str]) -> list[Path]:
    """Write figures by their names as :func:`save` does, each in a process of its own where that can be had."""
    children: dict[str, int | None] = {}
    paths = []
    try:
        for name, figure in figures.items():
            children[name] = _fork(save, figure, folder, name, formats)
        for name, figure in figures.items():
            child = children[name]
            done = child is not None and os.waitpid(child, 0)[1] == 0
            del children[name]
            if not done:
                save(figure, folder, name, formats)  # which raises here what went wrong there
            paths += [folder / f"{name}.{kind}" for kind in formats]
    finally:
        for child in filter(None, children.values()):
            with suppress(ProcessLookupError, ChildProcessError):  # just ended
                os.kill(child, signal.SIGTERM)
                os.waitpid(child, 0)
    return paths


def _fork(task: Callable[..., object], *arguments: object) -> int | None:
    """Do the task in a copy of this process and return its number, or None where copies are not safe or not allowed.

    The copy ends with status 0 if it has done the task, and with another, without a word, if the task raised.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return None  # what another thread holds is never released in the copy
    this, status = os.getpid(), 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # since there are threads: those of BLAS, which copes
            child = os.fork()
        if child == 0:
            task(*arguments)
            status = 0
    except OSError:
        return None  # such as too many processes
    finally:
        if os.getpid() != this:
            os._exit(status)
    return child
