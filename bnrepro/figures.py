"""One look for all figures: readable in print, in grey and by the colour-blind, and the same bytes every time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd

LOOK: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.hashsalt": "bnrepro",  # else ids in the file are random
}

NORMS: dict[str, dict[str, Any]] = {
    "none": {"color": "#D55E00", "linestyle": "--", "marker": "o", "label": "without batch norm"},
    "batch": {"color": "#0072B2", "linestyle": "-", "marker": "s", "label": "with batch norm"},
}
"""Colours of Okabe & Ito; line and marker tell the arms apart without them."""

ACTIVATIONS = {"sigmoid": "sigmoid", "relu": "ReLU"}


@contextmanager
def look() -> Iterator[None]:
    """Draw in the project's look, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        with mpl.rc_context(LOOK):
            yield


def style(norm: str) -> dict[str, Any]:
    """Return the line style of an arm; any norm but ours gets matplotlib's next colour and its own name."""
    return NORMS.get(norm, {"label": norm})


def line_with_range(ax: Axes, values: pd.Series, by: str, **style: Any) -> None:
    """Draw the median of ``values`` over seeds as a line, their range as a band, against index level ``by``."""
    seeds = values.groupby(level=by)
    (line,) = ax.plot(seeds.median(), **style)
    low, high = seeds.min(), seeds.max()
    ax.fill_between(low.index, low, high, color=line.get_color(), alpha=0.18, linewidth=0)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a path to write to in place of ``path``, which gets the file once it is whole and never a torn one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    yield partial
    partial.replace(path)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.svg, with nothing in them that depends on when or where."""
    paths = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for path, metadata in zip(paths, ({"Software": None}, {"Date": None, "Creator": None}), strict=True):
        with atomic_write(path) as partial:
            figure.savefig(partial, format=path.suffix[1:], metadata=metadata)
        figure.set_layout_engine("none")  # laid out once, for all formats
    return paths


def levels(column: pd.Series, first: Iterable[str]) -> list[str]:
    """Return the values that occur, those in ``first`` before the others."""
    present = list(column.dropna().unique())
    return [v for v in first if v in present] + sorted(set(present) - set(first))
