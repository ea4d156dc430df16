"""Stored results are compared with what training gives now; nothing that differs is passed over in silence."""

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from runs import a_run, query, settings, write_idx

from bnrepro import sweeping
from bnrepro.config import Inline, RunConfig
from bnrepro.data import Dataset
from bnrepro.errors import InputError
from bnrepro.provenance import environment
from bnrepro.store import FILE, RunResult, Store
from bnrepro.sweeping import Progress, expand, run_all, train_group
from bnrepro.verify import TOLERANCE, compare, verify

HERE = Inline(group_size=None)
DIGITS: dict[str, Any] = settings()["dataset"]
GRID = {"model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"]}, "optimizer": {"lr": [0.1, 1000.0]}}


def train_all(folder: Path, runs: Sequence[RunConfig]) -> Store:
    store = Store(folder, create=True)
    run_all(runs, store, HERE, Progress(len(runs)))
    return store


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store of eight runs, of which some have diverged."""
    folder = tmp_path_factory.mktemp("trained")
    runs = expand(settings({"diagnostics": ["percentiles", "units"], "train.predictions": True}), GRID)
    store = train_all(folder, runs)
    assert set(store.load().runs["status"]) == {"done", "diverged"}
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / "sweep")


def change(folder: Path, *statements: str) -> None:
    for sql in statements:
        query(folder / FILE, sql)


def verdicts(out: str) -> list[str]:
    """Of each run, as printed."""
    return re.findall(r"^[0-9a-f]{16} .*  ([a-z ]+)$", out, re.MULTILINE)


def test_what_is_untouched_is_equal(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / FILE).read_bytes()
    assert verify(trained, 8, HERE, DIGITS)
    out = capsys.readouterr().out
    assert out.startswith(f"8 of 8 finished runs of {trained / FILE} are trained again\n")
    assert verdicts(out) == ["equal"] * 8
    assert len(re.findall(" 0 +- +0 +equal$", out, re.MULTILINE)) == 8
    assert out.endswith("8 of 8 runs are equal, bit for bit\n")
    assert max(map(len, out.splitlines())) <= 120
    assert (trained / FILE).read_bytes() == before
    assert [path.name for path in trained.iterdir()] == [FILE]


@pytest.mark.parametrize(("sample", "places"), [(1, [0]), (3, [0, 2, 5]), (8, range(8)), (100, range(8))])
def test_the_sample_is_the_same_each_time_and_spread_over_all(
    trained: Path, monkeypatch: pytest.MonkeyPatch, sample: int, places: Sequence[int]
) -> None:
    entered: list[str] = []

    def counted(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
        entered.extend(run.run_id for run in runs)
        return train_group(runs, data, *rest)

    monkeypatch.setattr(sweeping, "train_group", counted)
    assert verify(trained, sample, HERE, DIGITS)
    ids = sorted(Store(trained).load().runs["run_id"])
    assert sorted(entered) == [ids[place] for place in places]


ULP = "* (1 + 2.3e-16)"
ONE_VALUE = {
    "loss": f"UPDATE curves SET train_loss = train_loss {ULP} WHERE run = 1 AND step = 20",
    "accuracy of a curve": "UPDATE curves SET test_accuracy = test_accuracy + 1e-16 WHERE run = 1 AND step = 0",
    "percentile": f"UPDATE layers SET p50 = p50 {ULP} WHERE run = 1 AND step = 10 AND layer = 1",
    "unit": f"UPDATE units SET p15 = p15 {ULP} WHERE run = 1 AND step = 10 AND unit = 8",
    "prediction": "UPDATE predictions SET labels = zeroblob(length(labels)) WHERE run = 1",
    "a row less": "DELETE FROM units WHERE run = 1 AND step = 10 AND unit = 8",
    "a row more": "INSERT INTO curves (run, step) VALUES (1, 21)",
    "a value less": "UPDATE curves SET gradient_norm = NULL WHERE run = 1 AND step = 0",
    "final accuracy": f"UPDATE runs SET test_accuracy = test_accuracy {ULP} WHERE run = 1",
    "status": "UPDATE runs SET status = 'diverged' WHERE run = 1",
    "step of the divergence": "UPDATE runs SET diverged_at = diverged_at + 1 WHERE run = (SELECT max(run) FROM runs "
    "WHERE status = 'diverged')",
}


@pytest.mark.parametrize("changed", ONE_VALUE)
def test_one_value_that_differs_by_one_bit_is_found(
    folder: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    change(folder, ONE_VALUE[changed])
    assert not verify(folder, 8, HERE, DIGITS)
    out = capsys.readouterr().out
    assert sorted(verdicts(out)) == ["differs"] + ["equal"] * 7
    assert out.endswith("7 of 8 runs are equal, bit for bit\n")
    (row,) = re.findall(r"^[0-9a-f]{16} .* differs$", out, re.MULTILINE)
    assert row.split()[6] == ("3" if changed == "a row less" else "1")  # of its values
    for line in ("stored", f"code .*{a_run().code}", f"blas_kernel .*{environment()['blas_kernel']}"):
        assert re.search(line, out)


OTHER_KERNEL = "UPDATE runs SET blas_kernel = 'Other'"
OTHER_HARDWARE = {
    "equal none the less": ([], "equal"),
    "late": (["UPDATE curves SET train_loss = 2 * train_loss, test_accuracy = 0 WHERE step > 1"], "within tolerance"),
    "ending": (["UPDATE runs SET test_accuracy = 0.5"], "within tolerance"),
    "early and little": (
        [f"UPDATE curves SET train_loss = train_loss * (1 + {TOLERANCE / 2}) WHERE step = 1"],
        "within tolerance",
    ),
    "early and much": (
        [f"UPDATE curves SET train_loss = train_loss * (1 - {TOLERANCE * 2}) WHERE step = 1"],
        "differs",
    ),
    "early gradient": ([f"UPDATE curves SET gradient_norm = gradient_norm * (1 + {TOLERANCE * 2})"], "differs"),
    "early and missing": (["UPDATE curves SET train_loss = NULL WHERE step = 0"], "differs"),
    "no curve": (["DELETE FROM curves"], "differs"),
}


@pytest.mark.parametrize("kind", OTHER_HARDWARE)
def test_on_other_hardware_the_first_update_is_judged_within_a_tolerance(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    changes, verdict = OTHER_HARDWARE[kind]
    keep = "DELETE FROM runs WHERE run > 1"
    change(folder, keep, *(f"DELETE FROM {table} WHERE run > 1" for table in ("curves", "layers", "units")))
    change(folder, OTHER_KERNEL, *changes)
    assert verify(folder, 1, HERE, DIGITS) is (verdict != "differs")
    out = capsys.readouterr().out
    assert verdicts(out) == [verdict]
    assert ("may differ by 0.0001 of their size" in out) is (verdict == "within tolerance")
    if verdict != "equal":
        assert re.search(rf"blas_kernel +Other +{environment()['blas_kernel']}\n", out)


def test_other_software_excuses_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "UPDATE runs SET numpy = '2.0.0', python = '3.11.0'", ONE_VALUE["loss"])
    assert not verify(folder, 8, HERE, DIGITS)
    assert re.search(r"numpy +2\.0\.0 +\d", capsys.readouterr().out)


OTHER_PROCESS = """
import sys
from pathlib import Path
from runs import settings
from bnrepro.config import Inline
from bnrepro.verify import verify

if __name__ == "__main__":
    sys.exit(not verify(Path(sys.argv[1]), 2, Inline(group_size=None), settings()["dataset"]))
"""


def test_another_blas_kernel_is_named_and_within_the_tolerance(trained: Path, tmp_path: Path) -> None:
    kernel = environment()["blas_kernel"]
    if platform.machine() != "x86_64" or not str(environment()["blas"]).startswith("openblas"):
        pytest.skip("the names of other kernels are those of OpenBLAS for x86")
    other = "Nehalem" if kernel != "Nehalem" else "Core2"
    (tmp_path / "script.py").write_text(OTHER_PROCESS)
    done = subprocess.run(
        [sys.executable, "-W", "error", tmp_path / "script.py", trained],
        env=os.environ | {"OPENBLAS_CORETYPE": other, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert set(verdicts(done.stdout)) == {"within tolerance"}
    assert re.search(rf"blas_kernel +{kernel} +{other}\n", done.stdout)


def test_runs_of_which_nothing_was_measured_are_compared_by_how_they_end(folder: Path) -> None:
    change(folder, *(f"DELETE FROM {table}" for table in ("curves", "layers", "units")))
    results = Store(folder).load()
    assert set(compare(results, results)["verdict"]) == {"equal"}


def test_runs_of_other_code_are_named_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder, "UPDATE runs SET code = 'old' WHERE run <= 3", "UPDATE runs SET status = 'failed' WHERE run = 4")
    assert verify(folder, 8, HERE, DIGITS)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 finished runs are left out: computed by other code (old)"
    assert lines[1].startswith("4 of 4 finished runs of ")
    monkeypatch.setattr(RunConfig, "code", "new")
    with pytest.raises(InputError, match="no finished run of the code in place, so nothing to verify"):
        verify(folder, 8, HERE, DIGITS)


def test_runs_that_cannot_be_made_here_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "mine_of_test_verify.py"
    module.write_text("from bnrepro.layers import Sigmoid\nclass Mine(Sigmoid): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = a_run({"model.activation": "mine_of_test_verify.Mine"})
    train_all(tmp_path / "sweep", [a_run(), mine])
    assert verify(tmp_path / "sweep", 5, HERE, DIGITS)
    assert verdicts(capsys.readouterr().out) == ["equal", "equal"]
    module.unlink()
    monkeypatch.delitem(sys.modules, "mine_of_test_verify")
    assert verify(tmp_path / "sweep", 5, HERE, DIGITS)
    out = capsys.readouterr().out
    assert out.startswith("1 finished runs are left out: model.activation=mine_of_test_verify.Mine: must be one of ")
    assert verdicts(out) == ["equal"]


def test_where_the_files_of_a_data_set_are_comes_from_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"dataset.root": str(write_idx(tmp_path / "root")), "dataset.sha256": None}
    given = settings(place, "dataset=mnist")
    train_all(tmp_path / "sweep", [RunConfig.parse(given), a_run()])
    assert verify(tmp_path / "sweep", 5, HERE, given["dataset"])
    assert verdicts(capsys.readouterr().out) == ["equal", "equal"]
    with pytest.raises(InputError, match=r"dataset\.root=elsewhere: no such folder"):
        verify(tmp_path / "sweep", 5, HERE, given["dataset"] | {"root": "elsewhere"})


def test_a_run_that_fails_here_differs_and_says_why(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
        return [RunResult(run, status="failed", error="Traceback\n  ...\nMemoryError: too much\n") for run in runs]

    monkeypatch.setattr(sweeping, "train_group", fail)
    assert not verify(trained, 2, HERE, DIGITS)
    out = capsys.readouterr().out
    assert verdicts(out) == ["differs", "differs"]
    assert len(re.findall(r"^[0-9a-f]{16} failed here: MemoryError: too much$", out, re.MULTILINE)) == 2


def test_a_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such store of runs"):
        verify(tmp_path, 5, HERE, DIGITS)
