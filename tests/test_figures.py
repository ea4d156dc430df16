"""Figures look the same everywhere and come out the same to the byte."""

import runpy
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bnrepro.figures import LOOK, NORMS, levels, line_with_range, look, save, style

DRAW = """
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from bnrepro.figures import line_with_range, look, save, style

with look():
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    values = pd.Series([1.0, 2.0, 4.0, 3.0], index=pd.Index([0.1, 0.1, 1.0, 1.0], name="lr"))
    line_with_range(ax, values, "lr", **style("batch"))
    ax.set(xscale="log", xlabel="learning rate", title="γ ≠ 1")
    figure.legend()
    save(figure, Path(sys.argv[1]), "figure")
"""

RC = """
font.size: 25
axes.facecolor: black
lines.linewidth: 9
savefig.bbox: tight
savefig.dpi: 40
svg.fonttype: none
axes.prop_cycle: cycler(color=['red'])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "draw.py"
    path.write_text(DRAW)
    return path


def draw(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Run the script in this process; the files that it wrote."""
    monkeypatch.setattr(sys, "argv", [str(script), str(folder)])
    runpy.run_path(str(script))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_figure_is_the_same_bytes(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again = (draw(script, tmp_path / name, monkeypatch) for name in ("first", "again"))
    assert sorted(first) == ["figure.png", "figure.svg"]
    assert first == again
    (tmp_path / "matplotlibrc").write_text(RC)
    env = {"MPLCONFIGDIR": str(tmp_path), "PATH": "", "SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "elsewhere")], env=env, cwd=tmp_path, check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()} == first


def test_files_are_of_their_kind_and_overwritten(tmp_path: Path) -> None:
    with look():
        for _ in range(2):
            paths = save(Figure(), tmp_path / "new" / "folder", "name.with dots")
    assert [path.name for path in paths] == ["name.with dots.png", "name.with dots.svg"]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [path.name for path in paths]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert ET.parse(paths[1]).getroot().tag.endswith("svg")
    assert b"dc:date" not in paths[1].read_bytes()


@pytest.mark.parametrize("raises", [False, True])
def test_the_look_is_ours_inside_and_the_users_after(raises: bool) -> None:
    with mpl.rc_context({"font.size": 31, "axes.facecolor": "black"}):
        users = dict(mpl.rcParams)
        try:
            with look():
                assert mpl.rcParams["font.size"] == LOOK["font.size"]
                assert mpl.rcParams["axes.facecolor"] == mpl.rcParamsDefault["axes.facecolor"]
                mpl.rcParams["lines.linewidth"] = 77
                if raises:
                    raise KeyError
        except KeyError:
            pass
        assert dict(mpl.rcParams) == users


def test_arms_differ_in_colour_line_and_marker() -> None:
    for key in ("color", "linestyle", "marker", "label"):
        assert len({arm[key] for arm in NORMS.values()}) == len(NORMS)
    assert style("batch") is NORMS["batch"]


def test_an_unknown_norm_is_drawn_under_its_own_name() -> None:
    assert style("mine.Shift") == {"label": "mine.Shift"}
    ax = Figure().subplots()
    ax.plot([1], [1], **style("mine.Shift"))
    assert ax.get_legend_handles_labels()[1] == ["mine.Shift"]


def test_a_line_is_the_median_and_its_band_the_range() -> None:
    ax = Figure().subplots()
    index = pd.Index([1, 1, 1, 2, 2, 2], name="step")
    line_with_range(ax, pd.Series([0.1, 0.9, 0.3, 0.5, 0.5, 0.8], index=index), "step", color="red", label="arm")
    (line,), (band,) = ax.get_lines(), ax.collections
    assert line.get_xydata().tolist() == [[1, 0.3], [2, 0.5]]  # type: ignore[union-attr]
    corners = {tuple(point) for point in band.get_paths()[0].vertices.tolist()}  # type: ignore[union-attr]
    assert corners == {(1, 0.1), (1, 0.9), (2, 0.5), (2, 0.8)}
    assert to_rgb(np.asarray(band.get_facecolor())[0]) == to_rgb("red")


def test_levels_are_those_that_occur_known_ones_first() -> None:
    column = pd.Series(["zeta", "relu", None, "alpha", "relu", "sigmoid"])
    assert levels(column, ["sigmoid", "tanh", "relu"]) == ["sigmoid", "relu", "alpha", "zeta"]
    assert levels(column[:0], ["sigmoid"]) == []
