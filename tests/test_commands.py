"""What a command does: what then stands on the screen and on the disk."""

import html
import json
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import SCRIPT, SMALL, TINY, Ended, assert_one_line, but, files, in_a_process
from made_up import write_experiment
from runs import query, write_idx

import bnrepro
from bnrepro import config, presenting, reference, sweeping
from bnrepro.store import FILE, Results, Store

# One run


def test_one_run_prints_its_progress_and_is_found_finished_the_second_time(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call(*TINY)
    assert (first.status, first.err) == (0, "")
    *progress, last, png, svg, pdf = first.out.splitlines()
    assert len(progress) == 5
    assert all(re.fullmatch(r"step +\d+  train loss \d\.\d{4}  test accuracy 0\.\d{4}", line) for line in progress)
    (run_id,) = trained
    assert re.fullmatch(rf"run {run_id}: done, test accuracy 0\.\d{{4}}; stored in results/single/runs\.sqlite", last)
    drawn = [png, svg, pdf]
    assert drawn == [f"results/single/{run_id}.{kind}" for kind in ("png", "svg", "pdf")]
    assert files(here) == sorted([*drawn, "results/single/runs.sqlite"])
    before = {path: (here / path).read_bytes() for path in drawn}
    (here / png).unlink()

    second = call(*TINY)
    assert (second.status, second.err) == (0, "")
    assert second.out.splitlines() == ["found finished in results/single/runs.sqlite", last, *drawn]
    assert {path: (here / path).read_bytes() for path in drawn} == before
    assert trained == [run_id]
    assert bnrepro.load("single").runs["run_id"].tolist() == [run_id]


def test_a_run_that_diverges_says_at_which_step_and_is_drawn_as_is_said(call: Callable[..., Ended], here: Path) -> None:
    ended = call(*TINY, "model.activation=relu", "optimizer.lr=1e4", "figures.formats=[svg]", "figures.width=3.3")
    assert ended.status == 0
    told = re.search(r"run (\w{16}): diverged, at step 1; stored in ", ended.out)
    assert told
    svg = f"results/single/{told[1]}.svg"
    assert files(here) == [svg, "results/single/runs.sqlite"]
    drawn = (here / svg).read_text()
    assert 'width="237.6pt"' in drawn  # 3.3 inches
    assert "step 1</text>" in drawn


@pytest.mark.usefixtures("blank_figures")
def test_a_run_that_fails_shows_its_traceback_and_is_tried_again(
    call: Callable[..., Ended], mine: str, trained: list[str]
) -> None:
    for _ in range(2):
        ended = call(*TINY, f"model.activation={mine}.Broken")
        assert ended.status == 1
        assert "RuntimeError: broken on purpose" in ended.out
        assert ": failed, " in ended.out
        assert "Traceback" not in ended.err
    assert len(trained) == 2
    assert [Path(path).name for path in files(Path())] == [FILE]
    assert call(*TINY, f"model.activation={mine}.Whole").status == 0


EARLY = """
import sys
from bnrepro.layers import Sigmoid


class Early(Sigmoid):
    def init(self, rng, in_shape):
        assert "matplotlib" not in sys.modules
        return super().init(rng, in_shape)
"""


def test_what_draws_is_imported_once_a_run_has_ended(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(EARLY)
    ended = in_a_process(["-m", "bnrepro", *TINY, "model.activation=mine.Early", "figures.formats=[png]"], tmp_path)
    assert (ended.status, ended.out.count(".png")) == (0, 1)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize(
    ("command", "told"),
    [
        (TINY, "the run is not stored; the same command trains it from its first step"),
        (["+verify", "compute=inline"], "the same command starts over, but for the runs that are stored"),
    ],
)
def test_an_interrupted_command_that_stores_nothing_says_so(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, command: list[str], told: str
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    call("+sweep", *SMALL)
    monkeypatch.setattr(sweeping, "train_runs", interrupted)
    ended = call(*command)
    assert (ended.status, ended.err) == (130, f"\nbnrepro: interrupted; {told}\n")


# A sweep


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("place", [0, 2, len(SMALL)])
def test_bare_sweep_is_the_main_job_in_any_position(call: Callable[..., Ended], place: int) -> None:
    ended = call(*SMALL[:place], "+sweep", *SMALL[place:])
    assert ended.status == 0
    assert ended.out.startswith("learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite\n")


@pytest.mark.usefixtures("blank_figures")
def test_a_sweep_shows_progress_a_table_and_the_paths_of_its_figures(call: Callable[..., Ended], here: Path) -> None:
    ended = call("+sweep", *SMALL)
    assert ended.status == 0
    assert re.fullmatch(r"(\d of 4 runs, \d\d:\d\d left\n)*4 of 4 runs, 00:00 left\n", ended.err)
    lines = ended.out.splitlines()
    assert {"usable:", "score:", "rates:"} <= {*lines}
    assert "verdict: can't be told from these runs" in lines  # of one seed
    paths = [line for line in lines if line.startswith("results/")]
    assert [Path(path).name for path in paths if "drawn" not in path] == [
        *(f"{figure}.{kind}" for figure in ("accuracy", "convergence", "usable") for kind in ("png", "svg", "pdf")),
        *(f"{table}.csv" for table in ("usable", "score", "steps_to_accuracy", "rates")),
        "verdict.json",
        "settings.json",
        "report.html",
    ]
    assert {*paths, "results/learning_rates/runs.sqlite"} == set(files(here))


def test_a_second_sweep_trains_nothing_and_draws_the_same_bytes(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call("+sweep", *SMALL)
    drawn = {path: (here / path).read_bytes() for path in files(here)}
    assert len(trained) == 4
    trained.clear()
    (page,) = here.rglob("report.html")
    (told,) = re.findall("<pre><code>python -m bnrepro (.*?)</code>", page.read_text("utf-8"))
    second = call(*shlex.split(html.unescape(told)))
    assert trained == []
    assert (second.status, second.err) == (0, "")
    assert second.out == first.out.replace("0 found finished", "4 found finished")
    assert {path: (here / path).read_bytes() for path in files(here)} == drawn

    for how in ("script", "command"):
        for path in drawn:
            if "sqlite" not in path:
                (here / path).unlink()
        shown = shown_by(call, how, *SMALL)
        assert (shown.status, shown.err, shown.out.splitlines()) == (0, "", first.out.splitlines()[1:])
        assert {path: (here / path).read_bytes() for path in files(here)} == drawn
    assert trained == []


@pytest.mark.usefixtures("blank_figures")
def test_a_wider_grid_trains_only_what_is_new(call: Callable[..., Ended], trained: list[str]) -> None:
    call("+sweep", *SMALL)
    old = set(trained)
    trained.clear()
    ended = call("+sweep", *but(SMALL, "sweep.grid.optimizer.lr=[0.2,0.1]", "sweep.grid.seed=[0,1]"))
    assert ended.out.startswith("learning_rates: 16 runs, 4 found finished in ")
    assert (len(trained), len(set(trained) | old)) == (12, 16)
    (folder,) = {Path(line).parent for line in ended.out.splitlines() if line.endswith(".png")}
    assert json.loads((folder / "settings.json").read_text())["seed"] == [0, 1]


@pytest.mark.usefixtures("blank_figures")
def test_a_failed_run_does_not_keep_the_others_from_being_shown(call: Callable[..., Ended], mine: str) -> None:
    ended = call("+sweep", *SMALL, f"sweep.grid.model.activation=[{mine}.Broken,relu]")
    assert ended.status == 1
    *_, told, first, second, where = ended.err.splitlines()
    assert told == "2 runs failed:"
    assert first == f"  model.activation={mine}.Broken model.norm=none: RuntimeError: broken on purpose"
    assert second == f"  model.activation={mine}.Broken model.norm=batch: RuntimeError: broken on purpose"
    assert where == (
        "their tracebacks: column error of results/learning_rates/runs.sqlite; the same command tries them again"
    )
    assert re.search("^relu .* none", ended.out, flags=re.MULTILINE)
    assert "Broken" not in ended.out.rpartition("steps to 90%")[2].partition("results/")[0]
    assert "Traceback" not in ended.err
    assert call("+sweep", *SMALL, f"sweep.grid.model.activation=[{mine}.Broken]").status == 1


@pytest.mark.usefixtures("blank_figures")
def test_an_interrupted_sweep_says_what_is_stored(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(results: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweeping.Progress, "__call__", lambda self, results: interrupted(results))
        ended = call("+sweep", *SMALL, "compute.group_size=1")
    assert ended.status == 130
    said, _, words = ended.err.strip().partition("python -m bnrepro ")
    assert said == "bnrepro: interrupted; 1 of 4 runs are stored; to go on: "
    assert call(*shlex.split(words)).out.startswith("learning_rates: 4 runs, 1 found finished in ")


@pytest.mark.usefixtures("blank_figures")
def test_a_dry_run_says_what_a_sweep_would_take_and_writes_nothing(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call("+sweep", *SMALL, "sweep.dry_run=true")
    assert (first.status, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0] == "learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite"
    assert lines[1] == "4 runs to train in 4 groups of up to 1, 1 at once"
    assert re.fullmatch(r"time: about 00:0\d, by 0.2 s of training of 4 of 4 kinds of runs", lines[2])
    assert re.fullmatch(r"memory: about \d+ MB here", lines[3])
    assert lines[4:] == ["nothing was trained or stored: sweep.dry_run=true"]
    assert list(here.iterdir()) == []
    assert trained == []

    two = call("+sweep", *but(SMALL, "compute=local", "compute.n_jobs=2"), "sweep.dry_run=true").out.splitlines()
    assert re.fullmatch(r"memory: about \d+ MB in each of 2 workers and \d+ MB here", two[3])

    call("+sweep", *SMALL)
    before = {path: (here / path).read_bytes() for path in files(here)}
    wider = [*SMALL[:-1], "sweep.grid.seed=[0,1]"]
    lines = call("+sweep", *wider, "sweep.dry_run=true").out.splitlines()
    assert lines[0].startswith("learning_rates: 8 runs, 4 found finished in ")
    assert lines[1].startswith("4 runs to train ")
    assert re.fullmatch(r"time: about 00:0\d, by the times of stored runs", lines[2])
    assert call("+sweep", *SMALL, "sweep.dry_run=true").out.splitlines()[1:] == ["nothing to train"]
    assert {path: (here / path).read_bytes() for path in files(here)} == before
    assert len(trained) == 4


@pytest.mark.usefixtures("blank_figures")
def test_force_trains_again_what_is_stored(call: Callable[..., Ended], here: Path, trained: list[str]) -> None:
    call("+sweep", *SMALL)
    of_time = ("sqlite", "report")  # which have the seconds of training, too
    drawn = {path: (here / path).read_bytes() for path in files(here) if not any(part in path for part in of_time)}
    again = call("+sweep", *SMALL, "sweep.force=true")
    assert again.status == 0
    assert len(trained) == 8
    assert {path: (here / path).read_bytes() for path in drawn} == drawn
    assert len(bnrepro.load("learning_rates").runs) == 4


@pytest.mark.usefixtures("blank_figures")
def test_runs_of_other_code_are_named_and_trained_again(
    call: Callable[..., Ended], here: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(config, "code_digest", lambda names: "0123456789abcdef")
        call("+sweep", *SMALL)
    wider = [*SMALL[:-1], "sweep.grid.seed=[0,1]"]
    redrawn = call(*wider, script=SCRIPT)
    assert "8 of 8 runs are not in results/learning_rates (4 of them were computed by other code); " in redrawn.err
    ended = call("+sweep", *wider)
    assert (ended.status, len(trained)) == (0, 12)
    assert ended.out.splitlines()[:2] == [
        "learning_rates: 8 runs, 0 found finished in results/learning_rates/runs.sqlite",
        "4 stored runs were computed by other code (0123456789abcdef) and are trained again",
    ]
    assert " 8 found finished " in call("+sweep", *wider).out.splitlines()[0]
    file = here / "results" / "learning_rates" / FILE
    assert query(file, "SELECT count(*), count(DISTINCT code) FROM runs") == [(12, 2)]  # and the old ones are kept


@pytest.mark.usefixtures("blank_figures")
def test_stored_runs_are_verified_by_training_some_of_them_again(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    call("+sweep", *SMALL)
    verified = call("+verify", "compute=inline", "verify.sample=2")
    assert verified.status == 0
    assert "2 of 2 runs are equal, bit for bit" in verified.out
    assert len(trained) == 6
    query(here / "results" / "learning_rates" / FILE, "UPDATE curves SET train_loss = train_loss + 1e-9 WHERE step = 5")
    assert call("+verify=learning_rates", "compute=inline").status == 1


@pytest.mark.parametrize("name", ["learning_rates", "covariate_shift"])
def test_every_sweep_of_conf_trains_and_shows(call: Callable[..., Ended], here: Path, name: str) -> None:
    ended = call(f"+sweep={name}", *SMALL, "figures.formats=[svg]")
    assert ended.status == 0
    assert any(path.endswith(".svg") for path in files(here / "results" / name))


@pytest.mark.usefixtures("blank_figures")
def test_an_override_of_what_a_sweep_varies_is_told_and_in_the_settings_of_its_folder(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    told = [
        "model.activation=tanh: in place of the sweep's [sigmoid, relu]",
        "seed=4,5: in place of the sweep's [0, 1, 2]",
    ]
    given = [*SMALL[:-1], "model.activation=tanh", "seed=4,5"]
    first = call("+sweep", *given)
    assert first.status == 0, first.err
    assert sorted(first.out.splitlines()[:2]) == told
    assert first.out.splitlines()[2].startswith("learning_rates: 4 runs, 0 found finished in ")
    runs = bnrepro.load("learning_rates").runs
    assert runs[["activation", "seed"]].drop_duplicates().to_numpy().tolist() == [["tanh", 4], ["tanh", 5]]
    (file,) = (path for path in files(here) if path.endswith("settings.json"))
    shown = json.loads((here / file).read_text())
    assert (shown["model.activation"], shown["seed"]) == (["tanh"], [4, 5])

    for again in (call("+show", *given), call(*given, script=SCRIPT), call("+sweep", "sweep.dry_run=true", *given)):
        assert again.status == 0, again.err
        assert sorted(again.out.splitlines()[:2]) == told
    assert again.out.splitlines()[2:] == [
        "learning_rates: 4 runs, 4 found finished in results/learning_rates/runs.sqlite", "nothing to train"
    ]  # fmt: skip
    assert len(trained) == len(bnrepro.load("learning_rates", given).runs) == len(bnrepro.sweep(overrides=given).runs)
    missing = call("+show", *but(given, "seed=6,7"))
    assert call(*shlex.split(missing.err.partition("; ")[2].partition("; ")[0])[6:]).status == 0


# Shown again


def shown_by(call: Callable[..., Ended], how: str, *overrides: str) -> Ended:
    return call(*overrides, script=SCRIPT) if how == "script" else call("+show=learning_rates", *overrides)


both = pytest.mark.parametrize("how", ["script", "command"])
NONE_STORED = r"4 of 4 runs are not in (.*)/learning_rates; to train them: (.*); the reference data: (.*)\n"


@both
def test_where_nothing_is_stored_the_commands_that_help_are_named(
    call: Callable[..., Ended], here: Path, how: str
) -> None:
    overrides = [*SMALL, "results_dir='some where'"]
    ended = shown_by(call, how, *overrides)
    assert (ended.status, ended.out) == (1, "")
    said = re.fullmatch(f"bnrepro: {NONE_STORED}", ended.err)
    assert said
    assert said[1] == "some where"
    assert shlex.split(said[2]) == ["python", "-m", "bnrepro", "+sweep=learning_rates", *overrides]
    assert said[3] == "python -m bnrepro +show=reference/learning_rates"
    assert files(here) == []


@pytest.mark.usefixtures("blank_figures")
@both
def test_what_is_stored_of_a_sweep_is_shown_with_the_command_that_trains_the_rest(
    call: Callable[..., Ended], here: Path, how: str, trained: list[str]
) -> None:
    call("+sweep", *SMALL)
    wider = but(SMALL, "sweep.grid.seed=[0,1]")
    shown = shown_by(call, how, *wider)
    assert (shown.status, shown.err) == (0, "")
    said = re.match(r"4 of 8 runs are not in results/learning_rates; to train them: (.*)\n", shown.out)
    assert said
    assert "\nverdict (4 of 8 runs): can't be told from these runs\n" in shown.out
    assert len(trained) == 4
    whole = call(*shlex.split(said[1])[3:])
    assert "\nverdict: " in whole.out
    assert shown_by(call, how, *wider).out == whole.out.partition("\n")[2]


def test_reference_data_are_shown_by_their_name_alone(
    call: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, float | None]] = []
    monkeypatch.setattr(reference, "show_reference", lambda name, figures: shown.append((name, figures.width)))
    assert call("+show=reference/learning_rates", "figures.width=3.3").status == 0
    assert shown == [("learning_rates", 3.3)]
    refused = call("+show=reference/learning_rates", "seed=5")
    assert_one_line(refused, "seed=5: reference/learning_rates has no variants")
    assert_one_line(call("+show=reference/nothing"), "sweep=nothing: must be one of ")
    assert (len(shown), files(here)) == (1, [])


@pytest.mark.parametrize("show", ["sweep.dry_run=true", "sweep.force=true", "sweep.redraw=30"])
def test_a_script_trains_nothing_whatever_it_is_told(call: Callable[..., Ended], here: Path, show: str) -> None:
    ended = call(show, script=SCRIPT)
    assert_one_line(ended, "sweep.show=true: not together with sweep.dry_run=true, sweep.force=true or sweep.redraw")
    assert files(here) == []


@pytest.mark.usefixtures("blank_figures")
def test_figures_are_drawn_while_the_sweep_goes_on(
    call: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, str]] = []
    done = threading.Semaphore(0)
    whole = presenting.present

    def present(experiment: Any, results: Results, *rest: Any, **expected: Any) -> presenting.Presented:
        told = whole(experiment, results, *rest, **expected)
        drawn.append((len(results.runs), threading.current_thread().name))
        done.release()
        return told

    def slowly(self: Store, *arguments: Any, **options: Any) -> None:
        add(self, *arguments, **options)
        while done.acquire(blocking=False):
            pass
        assert done.acquire(timeout=60)  # which may have begun before
        assert done.acquire(timeout=60)

    add = Store.add
    monkeypatch.setattr(Store, "add", slowly)
    monkeypatch.setattr(presenting, "present", present)
    ended = call("+sweep", *SMALL, "sweep.redraw=0.01", "compute.group_size=1")
    assert (ended.status, ended.out.count("score:")) == (0, 1)  # what is drawn meanwhile is not printed
    assert {count for count, thread in drawn if thread != "MainThread"} == {1, 2, 3, 4}
    assert [count for count, thread in drawn if thread == "MainThread"] == [4]


def test_a_live_drawing_that_fails_is_no_matter(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    whole = presenting.present

    def present(*arguments: Any, **expected: Any) -> presenting.Presented:
        if threading.current_thread() is not threading.main_thread():
            drawn.append(1)
            raise ValueError("broken on purpose")
        return whole(*arguments, **expected)

    monkeypatch.setattr(presenting, "present", present)
    ended = call("+sweep", *SMALL, "sweep.redraw=0.001", "compute.group_size=1", "figures.formats=[svg]")
    assert ended.status == 0
    assert drawn
    assert "broken" not in ended.out + ended.err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["figures.width=0.1"], "figures.width=0.1: must be greater than 0.5"),
        (["figures.style=no_such"], "figures.style=no_such: must be a matplotlib style sheet"),
        (["sweep.redraw=3"], "sweep=null: must be one of "),
        (["+verify", "figures.width=3"], "figures.width=3: has no effect on +verify"),
        (["+benchmark", "figures.width=3"], "figures.width=3: has no effect on benchmark=full"),
        (["+sweep", "figures.width=0.1"], "figures.width=0.1: must be greater than 0.5"),
        (["+sweep", "figures.formats=[]"], r"figures.formats=\[\]: must have at least 1 item"),
        (["+sweep", "figures.formats=[gif]"], "figures.formats.0=gif: must be 'png', 'svg' or 'pdf'"),
        (["+sweep", "sweep.redraw=0"], "sweep.redraw=0: must be greater than 0"),
    ],
)
def test_how_figures_are_drawn_is_checked(
    command: list[str], told: str, call: Callable[..., Ended], here: Path
) -> None:
    assert_one_line(call(*command), told.replace("+", r"\+"))
    assert files(here) == []


def test_a_sweep_that_cant_answer_is_refused_before_training(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    for more in ([], ["sweep.dry_run=true"]):
        ended = call("+sweep=covariate_shift", *SMALL, "diagnostics=[drift]", *more)
        assert_one_line(ended, r"diagnostics=\[\"drift\"\]: covariate_shift needs covariate_shift among them")
        ended = call("+sweep", *SMALL, "figures.style=no_such", *more)
        assert_one_line(ended, "figures.style=no_such: must be a matplotlib style sheet")
    assert (trained, files(here)) == ([], [])


@pytest.mark.parametrize(
    ("text", "told"), [("def broken(:\n", "SyntaxError: .*"), ("raise ValueError('no')\n", "ValueError: no")]
)
def test_an_experiment_that_cant_be_imported_is_one_line_before_training(
    call: Callable[..., Ended], tmp_path: Path, trained: list[str], text: str, told: str
) -> None:
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").write_text("grid:\n  seed: [0]\n")
    write_experiment(tmp_path, text)
    ended = call(f"--config-dir={tmp_path / 'conf'}", "+sweep=mine", *TINY)
    assert_one_line(ended, rf"{tmp_path}/experiments/mine\.py: can't be imported \({told}\)$")
    assert trained == []


@pytest.mark.usefixtures("blank_figures")
def test_other_files_of_a_data_set_are_other_runs(
    call: Callable[..., Ended], tmp_path: Path, trained: list[str]
) -> None:
    """Wherever they lie, in folders of any name."""
    one, other, copy, results = (tmp_path / name for name in ("one", "두 번째", "a=b,c: [d]", "100% #1?"))
    for folder, count in ((one, 60), (other, 70), (copy, 60)):
        write_idx(folder, count)
    unchecked = [*TINY, "dataset=mnist", "dataset.sha256=null", f"results_dir='{results}'"]
    for folder, found in ((one, False), (other, False), (copy, True)):
        ended = call(*unchecked, f"dataset.root='{folder}'")
        assert (ended.status, ended.err, "found finished" in ended.out) == (0, "", found)
    assert len(trained) == len({*trained}) == 2
    for name in ("mnist", "fashion_mnist"):
        refused = call(*TINY, f"dataset={name}", f"dataset.root={one}")
        assert_one_line(refused, f"dataset.root={one}: train-images-idx3-ubyte: SHA-256 is ")


MEASURES = """
import numpy as np

from bnrepro.measuring import Column, measures


@measures(Column("train_loss", "run", "a column that every run has"))
def clash(snapshot):
    return {"train_loss": snapshot.lr}


@measures(Column("mine", "layer", "a value of each layer"))
def misshapen(snapshot):
    return {"mine": snapshot.lr}


def undeclared(snapshot):
    return {"mine": snapshot.lr}


@measures(Column("mine", "layer", "a value of each layer"))
def good(snapshot):
    return {"mine": np.ones((len(snapshot.lr), 2)) * snapshot.lr[:, None]}
"""


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with these diagnostics."""
    (tmp_path / "measuring_of_a_test.py").write_text(MEASURES)
    monkeypatch.syspath_prepend(tmp_path)
    return "measuring_of_a_test"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("clash", "column train_loss of each run is every run's already"),
        ("misshapen", r"column mine has shape \(1,\); of each layer it must be \(1, 1\) or \(1, 2\)"),
        ("undeclared", "must be a bnrepro.measuring.Diagnostic"),
    ],
)
@pytest.mark.parametrize("command", [[*TINY], ["+sweep", *SMALL]], ids=["one run", "a sweep"])
def test_a_diagnostic_that_does_not_give_what_it_declares_is_one_line_before_any_training(
    call: Callable[..., Ended], measuring: str, command: list[str], name: str, problem: str
) -> None:
    assert_one_line(call(*command, f"diagnostics=[{measuring}.{name}]"), f"diagnostics={measuring}.{name}: {problem}$")
    stores = list(Path("results").rglob(FILE))
    assert all(query(store, "SELECT count(*) FROM runs") == [(0,)] for store in stores)


@pytest.mark.usefixtures("blank_figures")
def test_a_diagnostic_of_ones_own_fills_the_column_that_it_declares(call: Callable[..., Ended], measuring: str) -> None:
    assert call(*TINY, f"diagnostics=[{measuring}.good]", "optimizer.lr=0.25").status == 0
    layers = bnrepro.load("single").layers
    assert (layers["mine"] == 0.25).all()
    assert sorted(layers["layer"].unique()) == [1, 2]
