"""What all tests share."""

from __future__ import annotations

import gc
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from calls import BROKEN, Ended
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure
from PIL import Image

from bnrepro import api, sweeping
from bnrepro.data import Dataset
from bnrepro.store import RunResult
from bnrepro.sweeping import train_group


def pytest_collection_finish() -> None:
    """What is imported and collected stays, so that no garbage collection has to look through it again."""
    gc.freeze()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which a command must leave nothing but its results."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield folder
    assert {path.name for path in folder.iterdir()} <= {"results", "given"}


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``python -m bnrepro *arguments`` in this process, or a script."""

    def call(*arguments: str, script: Path | None = None) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(script or "bnrepro"), *arguments])
        status: Any = 0
        try:
            if script:
                runpy.run_path(str(script), run_name="__main__")
            else:
                runpy.run_module("bnrepro", run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        finally:
            GlobalHydra.instance().clear()
        return Ended(status, *capsys.readouterr())

    return call


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are files without content: for commands of which something else is tested."""

    def save_blank(figure: Figure, path: Path, **options: Any) -> None:
        if options["format"] == "png":
            Image.new("RGB", (1, 1)).save(path, "png", dpi=(40, 40))
        else:
            path.write_text("<svg></svg>")

    monkeypatch.setattr(Figure, "savefig", save_blank)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the runs for which training was really entered."""
    entered: list[str] = []

    def counted(runs: Sequence[Any], data: Dataset, *rest: Any) -> list[RunResult]:
        entered.extend(run.run_id for run in runs)
        return train_group(runs, data, *rest)

    for module in (api, sweeping):
        monkeypatch.setattr(module, "train_group", counted)
    return entered


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an activation ``Broken`` and another, ``Whole``."""
    (tmp_path / "mine_of_a_test.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_of_a_test"
