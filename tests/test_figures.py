"""Figures look the same everywhere, say what they show, and come out the same to the byte."""

import itertools
import math
import os
import runpy
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_up import made_up
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image
from runs import a_run

from bnrepro import analysis, figures
from bnrepro.analysis import Estimate
from bnrepro.errors import InputError
from bnrepro.figures import LOOK, NORMS, OTHERS, look, panels, save, style
from bnrepro.interrupts import stop_on_signals
from bnrepro.store import Results

nan = math.nan

DRAW = """
import sys
from pathlib import Path

import pandas as pd

from bnrepro import figures

found = pd.DataFrame({"value": [0.4, 0.8], "low": [0.1, 0.8], "high": [0.5, 0.9], "n": 2}, index=[0.1, 1.0])
with figures.look(style=sys.argv[2] if len(sys.argv) > 2 else None, note="6 of 9 runs"):
    figure, axes = figures.panels(["γ ≠ 1", "β"], (2.5, 2))
    for ax in axes:
        figures.line(ax, found, figures.style("batch"))
        figures.crosses_of(ax, found, figures.style("none"))
        ax.set(xscale="log", xlabel="learning rate")
    figures.legend(figure, figures.arms(["none", "batch"]))
    figures.save(figure, Path(sys.argv[1]), "figure", sys.argv[3:] or figures.FORMATS)
"""

RC = """
font.size: 25
axes.facecolor: black
lines.linewidth: 9
savefig.bbox: tight
savefig.dpi: 40
svg.fonttype: path
axes.prop_cycle: cycler(color=['red'])
"""


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def table(rows: Mapping[Any, Estimate], *names: str) -> pd.DataFrame:
    """A table of estimates; with one name its index is a plain one, as that of what :func:`analysis.rows` returns."""
    found = analysis.table(rows, names)
    return found if len(names) > 1 else found.set_axis(found.index.get_level_values(0))


def lines_of(ax: Axes, marker: str | None = None) -> list[list[list[float]]]:
    """The points of each line in a panel, of those with a marker if it is given."""
    return [np.asarray(line.get_xydata()).tolist() for line in ax.get_lines() if marker in (None, line.get_marker())]


def labels_of(artists: Sequence[Any]) -> list[str]:
    return [artist.get_label() for artist in artists]


# The look


@pytest.mark.parametrize("raises", [False, True])
def test_the_look_is_ours_inside_and_the_users_after(raises: bool) -> None:
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "black"}):
        users = dict(mpl.rcParams)
        try:
            with look(width=3, note="a note"):
                assert mpl.rcParams["font.size"] == LOOK["font.size"]
                assert mpl.rcParams["axes.facecolor"] == mpl.rcParamsDefault["axes.facecolor"]
                mpl.rcParams["lines.linewidth"] = 77
                if raises:
                    raise KeyError
        except KeyError:
            pass
        assert dict(mpl.rcParams) == users
    figure, _ = panels(["one"], (4, 3))
    figures.legend(figure, [])
    assert figure.get_figwidth() == 4.4
    assert figure.legends[0].get_title().get_text() == ""


def test_a_style_sheet_is_put_on_top_of_the_look(tmp_path: Path) -> None:
    file = tmp_path / "big.mplstyle"
    file.write_text("font.size: 15\n")
    with look(style=str(file)):
        assert mpl.rcParams["font.size"] == 15
        assert mpl.rcParams["axes.titlesize"] == LOOK["axes.titlesize"]
    with look(style="dark_background"):
        assert to_hex(Figure().get_facecolor()) == "#000000"


@pytest.mark.parametrize("name", ["no such style", "/no/such/file.mplstyle", "/"])
def test_a_style_sheet_that_is_not_there_is_named(name: str) -> None:
    with (
        pytest.raises(InputError, match=r"^figures\.style=.*: must be a matplotlib style sheet, [^\n]*$") as told,
        look(style=name),
    ):
        pass
    assert name in str(told.value)


# Arms


def seen_by_the_colour_blind(colour: Any, transform: Sequence[Sequence[float]]) -> np.ndarray:
    """A colour in CIE L*a*b* as it is seen with a defect given as a matrix of linear RGB."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(xyz @ np.clip(transform @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


DEFECTS: dict[str, Sequence[Sequence[float]]] = {  # complete ones (Machado et al. 2009)
    "none": np.eye(3).tolist(),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_colours_of_arms_are_apart_for_the_colour_blind(defect: str) -> None:
    colours = [arm["color"] for arm in (*NORMS.values(), *OTHERS)]
    seen = [seen_by_the_colour_blind(colour, DEFECTS[defect]) for colour in colours]
    distances = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(range(len(seen)), 2)
    }
    assert min(distances.values()) > 10, distances
    assert distances[0, 1] > 50  # ours


@pytest.mark.parametrize("key", ["linestyle", "marker"])
def test_arms_differ_without_their_colour(key: str) -> None:
    looks = [*NORMS.values(), *OTHERS]
    assert len({arm[key] for arm in looks}) == len(looks)


def test_no_arm_has_the_marker_of_a_bound_or_of_a_run_that_diverged() -> None:
    assert not {arm["marker"] for arm in (*NORMS.values(), *OTHERS)} & {*"^v<>xX"}


def test_arms_that_are_not_ours_have_their_own_name_and_different_looks() -> None:
    norms = ["none", "mine.A", "batch", "mine.B", "mine.C", "mine.D"]
    drawn = [Line2D([], [], **style(norm, norms)) for norm in norms]
    assert labels_of(drawn) == ["without batch norm", "mine.A", "with batch norm", "mine.B", "mine.C", "mine.D"]
    assert len({line.get_color() for line in drawn}) == len(norms)
    assert labels_of(figures.arms(norms)) == labels_of(drawn)
    assert [line.get_marker() for line in figures.arms(norms)] == [line.get_marker() for line in drawn]  # type: ignore[attr-defined]
    assert style("batch", norms) == style("batch") == NORMS["batch"]
    assert style("mine.B")["label"] == "mine.B"
    many = [f"mine.{i}" for i in range(len(OTHERS) ** 2)]
    looks = [(look["color"], look["linestyle"], look["marker"]) for look in (style(norm, many) for norm in many)]
    assert len({*looks}) == len(looks)


def test_activations_have_the_names_of_the_field() -> None:
    assert [*map(figures.activation_label, ["relu", "sigmoid", "mine.Swish"])] == ["ReLU", "sigmoid", "mine.Swish"]


# Panels


@pytest.mark.parametrize(
    ("count", "width", "most", "shape", "size"),
    [
        (3, None, None, (1, 3), (9.4, 2.8)),
        (1, None, None, (1, 1), (3.4, 2.8)),
        (3, None, 2, (2, 2), (6.4, 2 * 2 + 0.8)),
        (3, 5, 2, (2, 2), (5, 2 * 2 * 5 / 6.4 + 0.8)),
        (3, 3.3, None, (2, 2), (3.3, 2 * 2 * 0.7 + 0.8)),
        (3, 2.9, 2, (3, 1), (2.9, 3 * 2 * 2.9 / 3.4 + 0.8)),
        (2, 20, None, (1, 2), (20, 2 * 20 / 6.4 + 0.8)),
        (2, 0.6, None, (2, 1), (0.6, 2 * 2 * 0.7 + 0.8)),
    ],
)
def test_the_width_scales_a_figure_and_not_its_text_and_panels_fold(
    count: int, width: float | None, most: int | None, shape: tuple[int, int], size: tuple[float, float]
) -> None:
    titles = ["A", "B", "C"][:count]
    with look(width=width):
        figure, axes = panels(titles, (3, 2), most, sharex=True, sharey=True)
    assert [ax.get_title() for ax in figure.axes] == [ax.get_title() for ax in axes] == titles
    assert axes[0].get_gridspec().get_geometry() == shape  # type: ignore[union-attr]
    assert tuple(figure.get_size_inches()) == pytest.approx(size)
    assert {ax.title.get_fontsize() for ax in axes} == {LOOK["axes.titlesize"]}
    assert all(ax.get_shared_x_axes().joined(axes[0], ax) for ax in axes[1:])
    columns = shape[1]
    below = {i: i + columns < count for i in range(count)}
    drawn = {i: any(label.get_visible() for label in ax.get_xticklabels()) for i, ax in enumerate(axes)}
    assert all(drawn[i] or below[i] for i in range(count))  # no panel without numbers on its axis
    figures.label_rows(axes, "accuracy")
    assert [ax.get_ylabel() for ax in axes] == ["" if i % columns else "accuracy" for i in range(count)]


def test_long_titles_and_labels_are_wrapped_into_their_panels(tmp_path: Path) -> None:
    long = "one setting, another setting, a third setting"
    with look():
        figure, axes = panels([long, "short"], (2.2, 2))
        axes[0].set(xlabel=long, ylabel=long)
        save(figure, tmp_path, "wrapped", ["svg"])
        figure.draw_without_rendering()
    first, second = axes
    for text in (first.title, first.xaxis.label, first.yaxis.label):
        assert text.get_text().replace("\n", " ") == long
        assert figure.bbox.x0 <= text.get_window_extent().x0
    assert first.title.get_window_extent().x1 < second.title.get_window_extent().x0
    assert first.xaxis.label.get_window_extent().x1 < second.get_window_extent().x1
    assert first.yaxis.label.get_window_extent().height <= figure.bbox.height
    assert second.get_title() == "short"


def test_a_grid_has_its_panels_whatever_the_width() -> None:
    with look(width=2):
        figure, axes = figures.grid(2, 3, (3, 2))
    assert axes.shape == (2, 3)
    assert tuple(figure.get_size_inches()) == pytest.approx((2, 4 * 0.7 + 0.8))


# Lines, points, crosses


def test_a_line_is_the_value_and_its_band_from_low_to_high(ax: Axes) -> None:
    found = table({2: Estimate(0.5, 0.5, 0.8, 3), 1: Estimate(0.3, 0.1, 0.9, 3)}, "step")
    figures.line(ax, found, style("batch"), label="changed")
    (line,), (band,) = ax.get_lines(), ax.collections
    assert lines_of(ax) == [[[1, 0.3], [2, 0.5]]]
    corners = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}  # type: ignore[union-attr]
    assert corners == {(1, 0.1), (1, 0.9), (2, 0.5), (2, 0.8)}
    assert to_rgb(np.asarray(band.get_facecolor())[0]) == to_rgb(line.get_color()) == to_rgb(NORMS["batch"]["color"])
    assert (line.get_label(), line.get_marker()) == ("changed", NORMS["batch"]["marker"])


@pytest.mark.parametrize("found", [{1: Estimate(0.3, 0.3, 0.3, 1), 2: Estimate(0.4, 0.4, 0.4, 1)}, {}])
def test_a_line_of_one_seed_has_no_band(ax: Axes, found: dict[int, Estimate]) -> None:
    figures.line(ax, table(found, "step"), style("none"))
    assert not ax.collections


@pytest.mark.parametrize(
    ("found", "markers", "interval"),
    [
        (Estimate(2, 1, 4, 3), "ss", (1, 4)),
        (Estimate(2), "ss", None),
        (Estimate(2, 1, nan, 3, 1), "^>", (1, 2)),
        (Estimate(2, nan, 4, 3, -1), "v<", (2, 4)),
        (Estimate(2, nan, nan, 1, 1), "^>", None),
    ],
)
@pytest.mark.parametrize("along", ["y", "x"])
def test_a_point_has_its_interval_and_a_bound_shows_its_direction(
    ax: Axes, found: Estimate, markers: str, interval: tuple[float, float] | None, along: Literal["x", "y"]
) -> None:
    figures.points(ax, table({0.5: found}, "lr"), style("batch"), along, markersize=7)
    turn = -1 if along == "x" else 1
    assert lines_of(ax, markers[along == "x"]) == [[[0.5, 2][::turn]]]
    (drawn,) = ax.get_lines()
    assert (drawn.get_markersize(), drawn.get_color()) == (7, NORMS["batch"]["color"])
    segments = [np.asarray(each).tolist() for bars in ax.collections for each in bars.get_segments()]  # type: ignore[attr-defined]
    assert segments == ([] if interval is None else [[[0.5, end][::turn] for end in interval]])


def test_a_cross_is_at_the_bottom_of_its_panel_in_the_colour_of_its_arm(ax: Axes) -> None:
    ax.set(ylim=(-3, 7))
    figures.crosses(ax, [3, 5], style("none"), height=0.1)
    (line,) = ax.get_lines()
    assert lines_of(ax, "x") == [[[3, 0.1], [5, 0.1]]]
    assert line.get_color() == NORMS["none"]["color"]
    assert ax.transData.inverted().transform(line.get_transform().transform((3, 0.1))).tolist() == pytest.approx(
        [3, -2]
    )
    figures.crosses(ax, [], style("none"))
    assert len(ax.get_lines()) == 1


def test_crosses_are_thin_where_some_of_the_seeds_diverged_and_the_legend_says_so(ax: Axes) -> None:
    shares = {0.1: 0.0, 1.0: 1 / 3, 2.0: 2 / 3, 3.0: 1.0}
    drawn = table({x: Estimate(y, n=3) for x, y in shares.items()}, "lr")
    thin, full = [[1.0, 0.2], [2.0, 0.2]], [[3.0, 0.2]]
    some, all_ = "diverged with some seeds", "diverged"
    for rates, crosses, told in (
        ([1, 2], [thin], [some]),
        ([0.1, 3], [full], [all_]),
        (drawn.index, [full, thin], [all_, some]),
    ):
        ax.clear()
        figures.crosses_of(ax, drawn.loc[rates], style("batch"), 0.2)
        figure = ax.figure
        assert isinstance(figure, Figure)
        figures.legend(figure, [])
        assert [text.get_text() for text in figure.legends.pop().get_texts()] == told
        assert lines_of(ax, "x") == crosses


# Axes


@pytest.mark.parametrize(("logarithmic", "label"), [(True, "steps (linear to 10, then log)"), (False, "steps")])
def test_an_axis_of_steps_begins_at_0(ax: Axes, logarithmic: bool, label: str) -> None:
    figures.axis_of_steps(ax, 1000, logarithmic=logarithmic)
    assert (ax.get_xlabel(), ax.get_xlim()) == (label, (0, 1000))
    at = dict(
        zip((0, 5, 10, 100, 1000), ax.transData.transform([(x, 0) for x in (0, 5, 10, 100, 1000)])[:, 0], strict=True)
    )
    if logarithmic:
        assert at[1000] - at[100] == pytest.approx(at[100] - at[10])
        assert at[10] - at[5] == pytest.approx(at[5] - at[0])
    else:
        assert at[1000] - at[0] == pytest.approx(10 * (at[100] - at[0]))
        assert ax.xaxis.get_major_formatter()(1000) == "1K"


@pytest.mark.parametrize(
    ("step", "text"), [(0, "0"), (500, "500"), (999, "999"), (1000, "1K"), (2500.0, "2.5K"), (50000, "50K")]
)
def test_steps_are_written_as_in_the_paper(step: float, text: str) -> None:
    assert figures.thousands(step) == text


@pytest.mark.parametrize(
    ("highest", "ticks"),
    [
        (0.985, [0, 0.5, 0.8, 0.9, 0.95, 0.98]),
        (0.6, [0, 0.2, 0.4, 0.5, 0.6]),
        (0.2, [0, 0.2, 0.4, 0.5]),
        (nan, [0, 0.2, 0.4, 0.5]),
        (1.0, [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]),
    ],
)
@pytest.mark.parametrize(("bottom", "along"), [(0.0, "y"), (-0.5, "y"), (-0.5, "x")])
def test_accuracies_are_spaced_by_the_logarithm_of_the_error(
    ax: Axes, highest: float, ticks: list[float], bottom: float, along: Literal["x", "y"]
) -> None:
    figures.axis_of_accuracy(ax, highest, bottom, along)
    axis, spine, column = (ax.yaxis, "left", 1) if along == "y" else (ax.xaxis, "bottom", 0)
    assert [*axis.get_majorticklocs()] == ticks
    assert [label.get_text() for label in axis.get_majorticklabels()] == [f"{tick:g}" for tick in ticks]
    places = ax.transData.transform([(a, a) for a in (0.4, 0.6, 0.7, 0.8, np.fmax(highest, 0.5))])[:, column]
    assert places[3] - places[2] == pytest.approx(places[1] - places[0])  # errors of 0.3, 0.2 and of 0.6, 0.4
    assert places[4] <= ax.bbox.max[column]
    low, high = axis.get_view_interval()
    assert low == pytest.approx(bottom)
    assert ax.spines[spine].get_bounds() == pytest.approx((0, high))


def test_axes_of_curves_are_of_accuracy_against_steps() -> None:
    curves = table({("a", 0): Estimate(0.1), ("a", 50): Estimate(0.985), ("b", 200): Estimate(0.5)}, "arm", "step")
    with look(width=3):
        _, axes = panels(["A", "B", "C"], (3, 2), sharey=True)
        figures.axes_of_curves(axes, curves)
    for ax, label in zip(axes, ["test accuracy", "", "test accuracy"], strict=True):
        assert (ax.get_xlim(), ax.get_xscale(), ax.get_ylabel()) == ((0, 200), "symlog", label)
        assert max(ax.get_yticks()) == 0.98


@pytest.mark.parametrize("high", [3.5, 20, 100, 150, 300, 3_000, 9_000, 1e5])
def test_ticks_of_an_axis_of_ratios_have_room_for_their_labels(high: float) -> None:
    figure = Figure((4, 3))
    ax = figure.subplots()
    ax.set(xlim=(1, high))
    figures.axis_of_ratios(ax.xaxis)
    figure.draw_without_rendering()
    labels = [text.get_window_extent() for text in ax.get_xticklabels() if 1 <= text.get_position()[0] <= high]
    assert 3 <= len(labels) <= 9
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(labels))


@pytest.mark.parametrize("name", ["x", "y"])
def test_an_axis_of_ratios_is_logarithmic_with_ticks_near_1(ax: Axes, name: str) -> None:
    ax.set(xlim=(0.8, 4), ylim=(0.8, 4))
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    figures.axis_of_ratios(axis)
    assert axis.get_scale() == "log"
    assert {"x": ax.yaxis, "y": ax.xaxis}[name].get_scale() == "linear"
    ticks = [tick for tick in axis.get_majorticklocs() if 0.8 <= tick <= 4]
    assert ticks == pytest.approx([1, 1.5, 2, 3])
    assert axis.get_major_formatter().format_ticks(ticks) == ["1", "1.5", "2", "3"]
    assert not any(axis.get_minor_formatter().format_ticks([*axis.get_minorticklocs()]))


# Accuracy against a setting


def both(*rows: tuple[float, float, float], n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of final accuracy (not where it is NaN) and of shares that diverged, from (size, accuracy, share)."""
    final = {("sigmoid", "batch", x): Estimate(y, y - 0.1, y + 0.1, n) for x, y, _ in rows if not math.isnan(y)}
    diverged = {("sigmoid", "batch", x): Estimate(share, n=n) for x, _, share in rows}
    names = ("activation", "norm", "size")
    return table(final, *names), table(diverged, *names)


def test_final_accuracy_has_a_panel_per_activation_a_line_per_norm_and_crosses_below() -> None:
    final, diverged = both((1, 0.5, 0), (10, 0.8, 0.5), (100, nan, 1), n=2)
    more = [
        pd.concat([part, part.rename({"batch": "none"}), part.rename({"sigmoid": "relu"})])
        for part in (final, diverged)
    ]
    figure = figures.accuracy_against("size", *more, level=0.9)
    assert [ax.get_title() for ax in figure.axes] == ["sigmoid", "ReLU"]
    for ax, arms in zip(figure.axes, (["none", "batch"], ["batch"]), strict=True):
        for norm in arms:
            assert [[1, 0.5], [10, 0.8]] in lines_of(ax, NORMS[norm]["marker"])
        assert {x for line in lines_of(ax, "x") for x, _ in line} == {10, 100}
        heights = {y for line in lines_of(ax, "x") for _, y in line}
        assert len(ax.collections) == len(heights) == len(arms)  # bands, crosses
        assert ax.transLimits.inverted().transform((0, max(heights)))[1] < ax.transScale.transform((1, 0))[1]
        assert [line.get_ydata() for line in ax.get_lines() if line.get_linestyle() == ":"] == [[0.9, 0.9]]
        assert (ax.get_xlabel(), ax.get_xscale()) == ("size", "log")
    assert [ax.get_ylabel() for ax in figure.axes] == ["final test accuracy", ""]
    assert legend_of(figure) == [
        "without batch norm", "with batch norm", "range over 2 seeds (line: median)", "diverged", "usable: 90%",
        "diverged with some seeds",
    ]  # fmt: skip


def test_without_divergence_and_with_one_seed_the_legend_says_neither() -> None:
    figure = figures.accuracy_against("size", *both((1, 0.5, 0), (10, 0.8, 0), n=1))
    assert legend_of(figure) == ["with batch norm"]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "10"]
    assert figure.axes[0].get_ylim()[0] == 0  # no room for crosses


def test_where_all_diverged_there_is_a_panel_with_crosses() -> None:
    figure = figures.accuracy_against("size", *both((1, nan, 1), (10, nan, 1), n=2))
    assert lines_of(figure.axes[0], "x") == [[[1, 0.03], [10, 0.03]]]
    assert "diverged" in legend_of(figure)


# Legends


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("note", "title", "lines"),
    [("", "", [""]), ("6 of 9 runs", "", ["6 of 9 runs"]), ("6 of 9 runs", "A title", ["6 of 9 runs", "A title"])],
)
def test_a_legend_begins_with_the_note(note: str, title: str, lines: list[str]) -> None:
    with look(note=note):
        figure, _ = panels(["one"], (4, 3))
        figures.legend(figure, figures.arms(["none", "batch"]), title)
    assert figure.legends[0].get_title().get_text().split("\n") == lines
    assert legend_of(figure) == ["without batch norm", "with batch norm"]


@pytest.mark.parametrize("width", [2.5, 3.3, 7, None])
def test_a_legend_is_above_the_panels_and_cut_off_nowhere(width: float | None) -> None:
    with look(width=width, note="6 of 96 runs; train.batch_size=60, model.init={scheme: normal, std: 0.1}"):
        figure, axes = panels(["A", "B"], (3, 2.5))
        figures.legend(figure, [*figures.arms(["none", "batch"]), *figures.band_over(5), figures.cross()])
        figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert figure.bbox.x0 <= extent.x0
    assert extent.x1 <= figure.bbox.x1
    assert extent.y1 <= figure.bbox.y1
    assert all(ax.get_tightbbox().y1 <= extent.y0 for ax in axes)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("seeds", "labels"),
    [
        ([1], []),
        ([3], ["range over 3 seeds (line: median)"]),
        ([10, 5], ["range over 5 to 10 seeds (line: median)"]),
        ([3, 3], ["range over 3 seeds (line: median)"]),
    ],
)
def test_a_band_is_explained_if_there_is_one(seeds: list[int], labels: list[str]) -> None:
    assert labels_of(figures.band_over(*seeds)) == labels


def test_the_mean_over_one_seed_has_no_interval() -> None:
    assert labels_of(figures.interval_over(1)) == []
    assert labels_of(figures.interval_over(5)) == ["95% interval of the mean over 5 seeds"]


# Files


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "draw.py"
    path.write_text(DRAW, "utf-8")
    return path


def draw(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *rest: str) -> dict[str, bytes]:
    """Run the script in this process; the files that it wrote."""
    monkeypatch.setattr(sys, "argv", [str(script), str(folder), *rest])
    runpy.run_path(str(script))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_figure_is_the_same_bytes(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (draw(script, tmp_path / name, monkeypatch) for name in ("first", "again"))
    assert sorted(first) == ["figure.pdf", "figure.png", "figure.svg"]
    assert first == again
    (tmp_path / "matplotlibrc").write_text(RC)
    env = {"MPLCONFIGDIR": mpl.get_cachedir(), "PATH": "", "SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "7"}
    env["PYTHONPATH"] = str(Path(figures.__file__).parent.parent)
    subprocess.run([sys.executable, str(script), str(tmp_path / "elsewhere")], env=env, cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == first


def test_with_a_style_sheet_it_is_the_same_bytes_too(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even with one that puts back all that matplotlib begins with."""
    first, again = (draw(script, tmp_path / name, monkeypatch, "default", "svg") for name in ("first", "again"))
    assert first == again


def test_files_are_of_their_kind_without_a_date_and_overwritten(tmp_path: Path) -> None:
    with look():
        figure, _ = panels(["γ ≠ 1"], (2, 2))
        for _ in range(2):
            paths = save(figure, tmp_path / "new" / "folder", "name.with dots")
    assert [path.name for path in paths] == [f"name.with dots.{kind}" for kind in ("png", "svg", "pdf")]
    assert {path.name for path in paths[0].parent.iterdir()} == {path.name for path in paths}
    png, svg, pdf = (path.read_bytes() for path in paths)
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert "γ ≠ 1" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert b"dc:date" not in svg
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf  # fonts that can't be edited
    assert b"CreationDate" not in pdf


def test_a_png_has_a_palette_and_its_resolution(tmp_path: Path) -> None:
    with look():
        figure, (ax,) = panels(["few"], (2, 2))
        ax.fill_between([0, 1], [0, 1], color="#0072B2")
        (path,) = save(figure, tmp_path, "few", ["png"])
    with Image.open(path) as drawn:
        assert drawn.mode == "P"
        assert drawn.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert (0, 114, 178) in {colour for _, colour in drawn.convert("RGB").getcolors(1 << 20) or []}


@pytest.mark.parametrize("formats", [["svg"], ["pdf", "png"]])
def test_only_the_formats_that_are_wanted_are_written(tmp_path: Path, formats: list[str]) -> None:
    paths = save(Figure(), tmp_path, "figure", formats)
    assert [path.name for path in paths] == [f"figure.{kind}" for kind in formats]
    assert {*tmp_path.iterdir()} == {*paths}


def test_all_formats_have_one_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though rounded to the pixels of each, it would differ; it is made once, since it takes as long as a drawing."""
    positions, drawings = [], []
    savefig, draw = Figure.savefig, Figure.draw

    def spied(figure: Figure, *args: Any, **options: Any) -> None:
        savefig(figure, *args, **options)
        positions.append(figure.axes[0].get_position().bounds)

    def noted(figure: Figure, renderer: Any) -> None:
        drawings.append(renderer)
        draw(figure, renderer)

    monkeypatch.setattr(Figure, "savefig", spied)
    monkeypatch.setattr(Figure, "draw", noted)
    with look():
        figure, (ax,) = panels(["a title"], (2.13, 2.07))
        ax.set(xlabel="steps", ylabel="accuracy")
        figures.legend(figure, figures.arms(["none"]))
        save(figure, tmp_path, "figure")
    assert len(positions) == 3
    assert len({*positions}) == 1
    assert len(drawings) == 1 + 3


def test_a_file_that_is_being_written_is_the_one_before_or_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "figure.png").write_text("the one before")

    def torn(figure: Figure, path: Path, **options: Any) -> None:
        path.write_text("half of a fi")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(OSError, match="no space left"):
        save(Figure(), tmp_path, "figure", ["png"])
    assert (tmp_path / "figure.png").read_text() == "the one before"
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    ages = {"old": figures.ABANDONED_SECONDS + 60, "young": figures.ABANDONED_SECONDS - 60}
    for name, age in ages.items():
        left = tmp_path / f".{name}.partial"
        left.touch()
        os.utime(left, (0, left.stat().st_mtime - age))
    with figures.atomic_write(tmp_path / "table.csv") as partial:
        partial.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", ".young.partial"}


def test_two_who_write_one_file_at_once_both_end_well(tmp_path: Path) -> None:
    file = tmp_path / "figure.png"
    with figures.atomic_write(file) as one:
        one.write_text("one")
        with figures.atomic_write(file) as other:
            other.write_text("the other")
        assert file.read_text() == "the other"
    assert file.read_text() == "one"
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize("broken", [False, True])
def test_all_are_saved_to_the_same_bytes_as_one_by_one_whatever_becomes_of_the_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    this, saved_here, savefig = os.getpid(), list[Figure](), Figure.savefig

    def spied(figure: Figure, *args: Any, **options: Any) -> None:
        assert os.getpid() == this or not broken
        saved_here.append(figure)
        savefig(figure, *args, **options)

    with look():
        one, other = ({"b": panels(["one"], (2, 2))[0], "a": panels(["two", "three"], (2, 2))[0]} for _ in range(2))
        paths = [path for name, figure in one.items() for path in save(figure, tmp_path / "one by one", name)]
        monkeypatch.setattr(Figure, "savefig", spied)
        all_paths = figures.save_all(other, tmp_path / "all", figures.FORMATS)
    assert [path.name for path in all_paths] == [path.name for path in paths]
    assert [path.read_bytes() for path in all_paths] == [path.read_bytes() for path in paths]
    assert len([*(tmp_path / "all").iterdir()]) == len(paths) == 6
    assert len(saved_here) == (6 if broken or sys.platform != "linux" else 0)


def test_what_goes_wrong_where_figures_are_saved_is_raised_and_the_others_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with look():
        drawn = {name: panels([name], (2, 2))[0] for name in ("whole", "torn")}
    savefig = Figure.savefig

    def torn(figure: Figure, path: Path, **options: Any) -> None:
        savefig(figure, path, **options)
        if figure is drawn["torn"]:
            raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", torn)
    with pytest.raises(OSError, match="no space left"):
        figures.save_all(drawn, tmp_path, ["svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["whole.svg"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform != "linux", reason="figures are saved one after the other")
def test_an_interruption_ends_the_processes_that_save_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this, begun, fork = os.getpid(), tmp_path / "begun", os.fork
    children = []

    def never_ends(figure: Figure, path: Path, **options: Any) -> None:
        assert os.getpid() != this
        path.touch()
        begun.touch()
        time.sleep(60)

    def noted() -> int:
        children.append(fork())
        return children[-1]

    def interrupt(child: int, options: int) -> tuple[int, int]:
        while not begun.exists():
            time.sleep(0.01)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", never_ends)
    monkeypatch.setattr(os, "fork", noted)
    monkeypatch.setattr(os, "waitpid", interrupt)
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):
        figures.save_all({"one": Figure(), "two": Figure()}, tmp_path / "figures", ["png"])
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    assert [*(tmp_path / "figures").iterdir()] == []


def test_another_thread_saves_figures_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of this process would wait for ever for what the other threads hold."""
    monkeypatch.setattr(os, "fork", None, raising=False)
    with ThreadPoolExecutor(1) as pool:
        (path,) = pool.submit(figures.save_all, {"figure": Figure()}, tmp_path, ["png"]).result()
    assert path.exists()


# A single run


@pytest.mark.parametrize("diverged", [False, True])
def test_the_curve_of_a_run_has_its_loss_and_accuracy_and_how_it_ended(diverged: bool) -> None:
    run = a_run({"seed": 7})
    results = made_up([run], diverged=diverged)
    figure = figures.curve_of(results)
    curves, (row,) = results.curves, results.runs.to_dict("records")
    for ax, column, label in zip(
        figure.axes, ("train_loss", "test_accuracy"), ("loss on the probe batch (nats)", "test accuracy"), strict=True
    ):
        drawn, *crosses = ax.get_lines()
        assert np.asarray(drawn.get_xydata()).tolist() == curves[["step", column]].to_numpy().tolist()
        assert [float(np.asarray(cross.get_xdata())[0]) for cross in crosses] == [row["diverged_at"]] * diverged
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("steps", label)
        assert ax.get_xlim() == (0, row["diverged_at"] if diverged else curves["step"].max())
    ended = f"diverged at step {row['diverged_at']:.0f}" if diverged else f"test accuracy {row['test_accuracy']:.4f}"
    (legend,) = figure.legends
    told = f"run {run.run_id} (digits, sigmoid, learning rate 0.1, seed 7): {ended}"
    assert " ".join(legend.get_title().get_text().split()) == told
    assert [text.get_text() for text in legend.get_texts()] == ["without batch norm", *["diverged"] * diverged]


@pytest.mark.parametrize(("losses", "most"), [([2.0, 0.5], 12), ([1e-3, 1e8], 14), ([0.0, 1.0], 12)])
def test_a_loss_has_some_ticks_and_not_too_many(losses: list[float], most: int) -> None:
    run = a_run()
    results = made_up([run])
    curve = pd.DataFrame({"run_id": run.run_id, "step": [0, 9], "train_loss": losses, "test_accuracy": [0.1, 0.2]})
    with figures.look():
        figure = figures.curve_of(Results(results.runs, curve, curve, curve))
    low, high = figure.axes[0].get_ylim()
    assert 2 <= sum(low <= tick <= high for tick in figure.axes[0].get_yticks()) <= most
