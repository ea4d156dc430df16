"""Stored runs are listed, told apart, deleted, merged and exported; what is changed is changed as a whole, or not."""

import dataclasses
import io
import json
import math
import os
import re
import shlex
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import markupsafe
import pandas as pd
import pytest
from calls import SMALL, TINY, Ended, assert_one_line, but, files
from made_up import an_outcome, runs_of
from runs import query
from test_store import in_a_process, make_old, of_code

import bnrepro
from bnrepro import sweeping
from bnrepro.config import RunConfig
from bnrepro.presenting import WIDTH
from bnrepro.recipe import Status
from bnrepro.reference import EXACTLY
from bnrepro.store import FILE, MEASURED, SCHEMA_VERSION, RunResult, Store

STORE = Path("results", "learning_rates", FILE)
RUNS = runs_of(
    "learning_rates", "train.steps=20", "seed=0,1", "model.activation=sigmoid", "optimizer.lr=0.1,25", "dataset=digits"
)
"""8 runs, of which those without batch norm diverge at a rate of 25, and all of them there in what is made up here."""


def ended(run: RunConfig, status: Status | None = None, **fields: Any) -> RunResult:
    """How a run might have ended, in the order of runs."""
    made = an_outcome(run, diverged=None if status is None else status == "diverged")
    defaults: dict[str, Any] = {"seconds": 1.5, "finished": "2026-01-02T03:04:05+00:00"}
    fields = defaults | fields
    if status == "failed":
        fields |= {"status": "failed", "test_accuracy": None, "curves": [], "layers": []}
        fields |= {"error": 'Traceback:\n  File "x.py"\nValueError: broken on purpose'}
    return dataclasses.replace(made, **fields)


@pytest.fixture
def store(here: Path) -> Store:
    """All but the last run, of which the first failed."""
    store = Store(here / STORE.parent, create=True)
    store.add([ended(RUNS[0], "failed")], note="the first, at night")
    store.add(map(ended, RUNS[1:-1]))
    query(store.path, "UPDATE runs SET cpu = 'A CPU (R) @ 3 GHz' WHERE run = 1")
    return store


def ids(store: Store) -> list[str]:
    return store.all_runs()["run_id"].tolist()


def listed(ended: Ended) -> list[str]:
    """The labels of the runs in a list."""
    assert (ended.status, ended.err) == (0, "")
    assert all(len(line) <= WIDTH for line in ended.out.splitlines())
    _, _, table = ended.out.partition("\nrun ")
    return [line.split()[0] for line in table.partition("\n\n")[0].splitlines()[1:]]


# Lists


def test_the_stores_are_listed(call: Callable[..., Ended], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        of_code(patched, "old")
        Store(Path("results", "single"), create=True).add([ended(RUNS[0])])
    os.utime(STORE, (0, 0))
    shown = call("+runs")
    assert (shown.status, shown.err) == (0, "")
    table = " ".join(shown.out.split())
    for words in (
        "results runs done diverged failed other code last change, UTC size",
        "learning_rates 7 3 3 1 0 1970-01-01 00:00 ",
        "single 1 1 0 0 1 ",
        "learning_rates the first, at night",
    ):
        assert words in table
    assert shown == call("+runs=all")


def test_a_store_that_can_not_be_read_hides_no_other(call: Callable[..., Ended], store: Store) -> None:
    broken = Path("results", "broken", FILE)
    broken.parent.mkdir()
    broken.write_text("no store")
    shown = call("+runs")
    assert "learning_rates" in shown.out
    assert_one_line(shown, f"{broken}: can't be used as a store of runs")


def test_runs_are_listed_with_what_varies_alone(call: Callable[..., Ended], store: Store) -> None:
    shown = call("+runs=learning_rates")
    first, head, *_ = shown.out.splitlines()
    assert first == f"{STORE}: 7 runs: 3 done, 3 diverged, 1 failed"
    assert head.split()[:6] == ["run", "norm", "lr", "seed", "status", "accuracy"]
    for absent in ("activation", "host", "code", "steps"):
        assert absent not in shown.out
    assert "ValueError: broken on purpose" in shown.out
    assert "2026-01-02 03:04" in shown.out
    assert "the first, at night" in shown.out
    assert [run_id[:4] for run_id in ids(store)] == listed(shown)


def test_what_varies_of_code_and_machine_is_listed_and_a_note_of_all_stands_above(
    call: Callable[..., Ended], store: Store
) -> None:
    query(store.path, "UPDATE runs SET note = 'of all', host = 'host' || (run % 2), cpu = 'cpu', code = 'c' || run")
    shown = call("+runs=learning_rates")
    lines = shown.out.splitlines()
    assert lines[:2] == [f"{STORE}: 7 runs: 3 done, 3 diverged, 1 failed; 7 of other code", "note: of all"]
    assert {"code", "host"} <= {*lines[2].split(), *shown.out.split()}
    assert "host1" in shown.out
    assert "cpu" not in shown.out


def test_ids_are_as_long_as_tells_them_apart_with_the_code_where_it_must(
    call: Callable[..., Ended], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    query(store.path, "UPDATE runs SET run_id = 'abcdef' || run || substr(run_id, 8)")
    of_code(monkeypatch, "zzzz0")
    store.add([dataclasses.replace(ended(RUNS[-1]), provenance={"cpu": "new"})])
    query(store.path, "UPDATE runs SET run_id = (SELECT run_id FROM runs WHERE run = 1) WHERE code = 'zzzz0'")
    labels = listed(call("+runs=learning_rates"))
    code = query(store.path, "SELECT code FROM runs WHERE run = 1")[0][0]
    assert sorted(labels) == sorted([f"abcdef1@{code[:4]}", "abcdef1@zzzz", *(f"abcdef{i}" for i in range(2, 8))])
    told = call("+runs=learning_rates", f"runs.compare=abcdef1@z,abcdef1@{code}").out
    assert re.search(rf"code +zzzz0 +{code}", told)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("optimizer.lr=25", {2, 3, 6}),
        ("lr=25.0", {2, 3, 6}),
        ("[model.norm=batch,seed=0]", {4, 6}),
        ("seed=0,seed=1,norm=batch", {4, 5, 6}),
        ("status=failed", {0}),
        ("note='the first, at night'", {0}),
        ("model.hidden=[100,100,100],seed=1", {1, 3, 5}),
        ("model.bias=null,lr=0.1,norm=none", {0, 1}),
        (f"run_id={RUNS[3].run_id}", {3}),
        ("train.steps=20,seed=0,norm=batch,lr=0.1", {4}),
        ("lr=25,status=failed", set()),
        ("cpu=A CPU (R) @ 3 GHz", {0}),
    ],
)
def test_runs_are_chosen_by_what_they_have(
    call: Callable[..., Ended], store: Store, where: str, expected: set[int]
) -> None:
    shown = call("+runs=learning_rates", f"runs.where={where}")
    assert {*listed(shown)} == {RUNS[i].run_id[:4] for i in expected}
    assert f": {len(expected)} run" in shown.out.splitlines()[1]


BAD = {
    "no such store": (["+runs=nothing"], "runs.store=nothing: must be one of learning_rates, which results has$"),
    "no store": (["+runs", "results_dir=elsewhere"], "results_dir=elsewhere: no run is stored there$"),
    "no such folder": (["+runs=a", "results_dir=elsewhere"], "runs.store=a: no run is stored in elsewhere$"),
    "no name": (["+runs="], "runs.store=: must have at least 1 character"),
    "with a sweep": (["+runs", "+sweep"], "runs.store=all: not together with sweep=learning_rates$"),
    "with verify": (["+runs", "+verify"], "runs.store=all: not together with verify.sweep=learning_rates$"),
    "with reference": (["+runs", "+reference"], r'runs.store=all: not together with reference.sweeps=\["all"\]$'),
    "without the command": (["runs.where=seed=1"], "runs.where=seed=1: only with .runs$"),
    "with a sweep instead": (["+sweep", "runs.yes=true"], "runs.yes=true: only with .runs$"),
    "of all stores": (["+runs", "runs.where=seed=1"], "runs.where=seed=1: only with .runs=NAME$"),
    "a setting": (["+runs=learning_rates", "optimizer.lr=1"], "optimizer.lr=1: has no effect on .runs$"),
    "figures": (["+runs=learning_rates", "figures.width=3"], "figures.width=3: has no effect on .runs$"),
    "a key": (["+runs=learning_rates", "runs.which=1"], "runs.which=1: no such key; known are store, where, "),
    "two at once": (
        ["+runs=learning_rates", "runs.delete=failed", "runs.merge=x"],
        "runs.delete=failed: not together with runs.merge$",
    ),
    "where, merged": (
        ["+runs=learning_rates", "runs.where=seed=1", "runs.merge=x"],
        "runs.where=seed=1: has no effect on runs.merge$",
    ),
    "where, compared": (
        ["+runs=learning_rates", "runs.where=seed=1", "runs.compare=a,b"],
        "runs.where=seed=1: has no effect on runs.compare$",
    ),
    "yes": (["+runs=learning_rates", "runs.yes=true"], "runs.yes=true: only with runs.delete or runs.export$"),
    "a table": (["+runs=learning_rates", "runs.table=runs"], "runs.table=runs: only with runs.export=FILE$"),
    "a key of no run": (
        ["+runs=learning_rates", "runs.where=model.stem=3"],
        "runs.where=model.stem=3: no run has that key; those that vary are norm, lr, seed, status$",
    ),
    "a number for a key": (["+runs=learning_rates", "runs.where=run=3"], "runs.where=run=3: no run has that key"),
    "a value of no run": (
        ["+runs=learning_rates", "runs.where=optimizer.lr=0.5"],
        "runs.where=optimizer.lr=0.5: no run has that value; lr is 0.1, 25$",
    ),
    "no value": (["+runs=learning_rates", "runs.where=seed"], "runs.where=seed: must be KEY=VALUE$"),
    "what": (["+runs=learning_rates", "runs.delete=all"], "runs.delete=all: must be 'failed', 'stale' or 'selected'"),
    "none selected": (
        ["+runs=learning_rates", "runs.delete=selected"],
        "runs.delete=selected: only with runs.where=KEY=VALUE, which selects$",
    ),
    "no terminal": (
        ["+runs=learning_rates", "runs.delete=failed"],
        "runs.delete=failed: asks on a terminal, and here is none; runs.yes=true says yes$",
    ),
    "one id": (["+runs=learning_rates", "runs.compare=12e4"], "runs.compare=12e4: must be the ids of two runs: ID,ID$"),
    "no id": (["+runs=learning_rates", "runs.compare=xx,00"], "runs.compare=xx: no run has an id that begins so$"),
    "any id": (["+runs=learning_rates", "runs.compare='',00"], "runs.compare=: must be one of \\w{4}, \\w{4}, "),
    "one run twice": (
        ["+runs=learning_rates", f"runs.compare={RUNS[0].run_id},{RUNS[0].run_id[:-1]}"],
        f"runs.compare={RUNS[0].run_id},{RUNS[0].run_id[:-1]}: must be the ids of two runs$",
    ),
    "no other store": (["+runs=new", "runs.merge=nowhere"], "runs.merge=nowhere: no such store of runs$"),
    "the same store": (
        ["+runs=learning_rates", f"runs.merge={STORE.parent}"],
        f"runs.merge={STORE.parent}: is the store into which runs would be merged$",
    ),
    "no table of a file": (["+runs=learning_rates", "runs.export=x.txt"], "runs.export=x.txt: must end in .csv or "),
    "nothing measured": (
        ["+runs=learning_rates", "runs.export=x.csv", "runs.table=units"],
        "runs.table=units: nothing of it was measured in these runs$",
    ),
    "no such table": (
        ["+runs=learning_rates", "runs.export=x.csv", "runs.table=claims"],
        "runs.table=claims: must be 'runs', 'curves', 'layers' or 'units'",
    ),
    "no folder": (["+runs=learning_rates", "runs.export=/proc/x.csv"], "runs.export=/proc/x.csv: can't be written "),
    "a note, no run": (["+show", "sweep.note=a: b, c"], "sweep.note=a: b, c: only where runs are trained$"),
    "a note, a dry run": (["+sweep", "sweep.dry_run=true", "sweep.note=x"], "sweep.note=x: only where runs are "),
    "a note, one run": (["sweep.note=x"], "sweep.note=x: only with a sweep$"),
    "a note, references": (["+reference", "sweep.note=x"], "sweep.note=x: has no effect on .reference"),
    "an empty note": (["+sweep", "sweep.note="], "sweep.note=: must have at least 1 character"),
}


@pytest.mark.parametrize(("command", "told"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_changes_nothing(
    call: Callable[..., Ended], store: Store, here: Path, command: list[str], told: str
) -> None:
    before = {path: (here / path).read_bytes() for path in files(here)}
    assert_one_line(call(*command), told)
    assert {path: (here / path).read_bytes() for path in files(here)} == before


# A note


def test_a_note_is_stored_with_what_its_command_trains_and_is_no_part_of_it(
    call: Callable[..., Ended], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    note = "it's a: b, [c]"
    (here / "given" / "sweep").mkdir(parents=True)
    (here / "given" / "sweep" / "mine.yaml").write_text("grid: {seed: [0, 1, 2, 3]}")
    sweep = ["--config-dir=given", "+sweep=mine", *TINY, "compute.group_size=1"]
    with monkeypatch.context() as patched:
        patched.setattr(sweeping.Progress, "__call__", interrupted)
        first = call(*sweep, f"sweep.note={note}")
    again = first.err.partition("to go on: python -m bnrepro ")[2]
    assert f"sweep.note={note}" in shlex.split(again)
    assert query(Path("results", "mine", FILE), "SELECT note FROM runs") == [(note,)]
    swept = call(sweep[0], *shlex.split(again))
    assert swept.out.startswith("mine: 4 runs, 1 found finished in ")
    (page,) = Path("results", "mine").rglob("report.html")
    text = page.read_text("utf-8")
    assert f'<tr><th scope="row">note</th><td class="text">{markupsafe.escape(note)}</td></tr>' in text
    assert "sweep.note" not in text
    assert call(*sweep, "sweep.show=true").status == 0
    assert page.read_text("utf-8") == text
    bnrepro.sweep("learning_rates", [*SMALL, "sweep.note=one"])
    bnrepro.sweep("learning_rates", [*but(SMALL, "sweep.grid.seed=[0,1]"), "sweep.note=more"])
    assert query(STORE, "SELECT note, count(*) FROM runs GROUP BY note ORDER BY note") == [("more", 4), ("one", 4)]


def test_a_store_of_no_runs_is_one(call: Callable[..., Ended]) -> None:
    Store(Path("results", "none"), create=True)
    told = "results/none/runs.sqlite: "
    for more, expected in (
        ([], f"{told}0 runs\n"),
        (["runs.where=seed=1"], f"{told}0 runs\nseed=1: 0 runs\n"),
        (["runs.delete=stale"], f"{told}to be deleted (stale): 0 runs\n0 runs deleted\n"),
    ):
        assert call("+runs=none", *more) == Ended(0, expected, "")


# Two runs


def test_two_runs_are_compared(call: Callable[..., Ended], store: Store) -> None:
    shown = call("+runs=learning_rates", f"runs.compare={RUNS[1].run_id[:5]},{RUNS[4].run_id}")
    assert (shown.status, shown.err) == (0, "")
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == [RUNS[1].run_id[:4], RUNS[4].run_id[:4]]
    assert ["norm", "none", "batch"] in lines
    assert ["seed", "1", "0"] in lines
    assert ["status", "done", "done"] in lines
    assert not {"lr", "code", "run", "config"} & {line[0] for line in lines if line}
    one, other = (store.measured("curves", [run])["gradient_ratio"][0] for run in (2, 5))
    assert f"curves (5 steps) first differ at step 0, in gradient_ratio: {one} and {other}\n" in shown.out


def test_a_single_bit_is_found_and_steps_of_one_alone_are_no_difference(
    call: Callable[..., Ended], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, code = ended(RUNS[1]), RUNS[1].code
    again.curves.append({"step": 21, "train_loss": 0.0})
    value = again.layers[4]["p50"]
    again.layers[4]["p50"] = math.nextafter(value, 1)
    of_code(monkeypatch, "other")
    store.add([again])
    compare = ["+runs=learning_rates", f"runs.compare={RUNS[1].run_id}@o,{RUNS[1].run_id}@{code[:2]}"]
    told = call(*compare).out.splitlines()
    assert "curves (6 and 5 steps) are equal to the bit in what was measured of both" in told
    assert (
        told[-1] == f"layers (5 steps) first differ at step 2, layer 2, in p50: {math.nextafter(value, 1)} and {value}"
    )
    query(store.path, "UPDATE curves SET step = step + 100 WHERE run = 8")
    assert "curves (6 and 5 steps) have no step in common" in call(*compare).out


# Deletion


@pytest.mark.parametrize(
    ("which", "where", "expected"),
    [
        ("failed", "", {0}),
        ("failed", "seed=1", set()),
        ("stale", "", {5, 6}),
        ("stale", "seed=1", {5}),
        ("selected", "lr=25", {2, 3, 6}),
    ],
)
def test_what_is_asked_for_is_deleted_and_nothing_else(
    call: Callable[..., Ended], store: Store, which: str, where: str, expected: set[int]
) -> None:
    query(store.path, "UPDATE runs SET code = 'old' WHERE run > 5")
    before = {name: query(store.path, f"SELECT * FROM {name} ORDER BY 1, 2") for name in ("runs", *MEASURED)}
    ended = call(
        "+runs=learning_rates", f"runs.delete={which}", "runs.yes=true", *[f"runs.where={where}"] * bool(where)
    )
    assert (ended.status, ended.err) == (0, "")
    assert f"to be deleted ({which}): {len(expected)} run" in ended.out
    assert re.search(rf"\n{len(expected)} runs? deleted", ended.out)
    gone = {i + 1 for i in expected}
    for name, rows in before.items():
        assert query(store.path, f"SELECT * FROM {name} ORDER BY 1, 2") == [row for row in rows if row[0] not in gone]


def test_runs_whose_code_can_not_be_told_are_not_stale(call: Callable[..., Ended], store: Store) -> None:
    query(store.path, """UPDATE runs SET config = replace(config, '"relu"', '"sigmoid"'), code = 'old' WHERE run < 3""")
    query(store.path, """UPDATE runs SET config = replace(config, '"sigmoid"', '"gone.Class"') WHERE run = 2""")
    first = "(SELECT min(run_id) FROM runs WHERE norm = 'batch')"
    query(store.path, f"""UPDATE runs SET config = replace(config, '"seed": ', '"seed": 7') WHERE run_id = {first}""")
    ended = call("+runs=learning_rates", "runs.delete=stale", "runs.yes=true")
    assert "left as they are: 1 of which no code is known here (its settings make another run by the" in ended.out
    assert "left as they are: 1 of which no code is known here (model.activation=gone.Class: must be" in ended.out
    assert "1 of which no code is known here (model.activation=gone.Class: must" in call("+runs=learning_rates").out
    assert query(store.path, "SELECT run FROM runs ORDER BY run") == [(run,) for run in range(2, 8)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y\n", 6), ("Yes\n", 6), ("n\n", 7), ("\n", 7), ("", 7)])
def test_a_terminal_is_asked(
    call: Callable[..., Ended], store: Store, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    ended = call("+runs=learning_rates", "runs.delete=failed")
    assert "1 run: 1 failed\n" in ended.out
    assert "\ndelete them? [y/N] " in ended.out
    assert len(ids(store)) == left
    if left == 7:
        assert_one_line(ended, "runs.delete=failed: not confirmed, so nothing is deleted$")


def test_a_sweep_meanwhile_loses_nothing_and_the_file_shrinks_after_it(
    call: Callable[..., Ended], store: Store
) -> None:
    measured = [{"step": step, "layer": layer, "p50": 0.5} for step in range(2000) for layer in range(5)]
    store.add([ended(RUNS[-1], layers=measured)])
    delete = ["+runs=learning_rates", "runs.delete=selected", f"runs.where=run_id={RUNS[-1].run_id}", "runs.yes=true"]
    before = store.path.stat().st_size
    assert store.claim([RUNS[0], RUNS[-1]], "a sweep", replace=True)
    told = call(*delete).out
    assert "1 run deleted; a sweep is in training on this store; the same command gives the space back once" in told
    assert store.path.stat().st_size == before
    assert len(query(store.path, "SELECT * FROM claims")) == 2
    chosen = store.all_runs()
    store.add([ended(RUNS[0]), ended(RUNS[-1])], replace=True)  # which had failed, and was deleted
    assert store.delete(chosen.loc[chosen["status"] == "failed", "run"].tolist()) == 0
    assert {*ids(store)} == {run.run_id for run in RUNS}
    store.release("a sweep")
    told = call("+runs=learning_rates", "runs.delete=failed").out
    assert re.search(r"0 runs deleted; \d+kB given back to the disk\n", told)
    assert store.path.stat().st_size < before / 2


KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from runs import a_run
from bnrepro.store import FILE, RunResult, Store

action, folder, rng = sys.argv[1], Path(sys.argv[2]), random.Random(0)
rows = [{"step": step, "layer": layer, "p50": 0.5} for step in range(300) for layer in (1, 2, 3)]
template, other = (Store(folder / name, create=True) for name in ("template", "other"))
template.add(RunResult(a_run({"seed": seed}), layers=rows) for seed in range(20))
other.add(RunResult(a_run({"seed": seed}), layers=rows) for seed in range(10, 40))
store = Store(folder / "store", create=True)

def act():
    if action == "merge":
        store.merge(other)
    else:
        store.delete([*range(1, 11)])
        store.give_back_space()

def again():
    shutil.copyfile(template.path, store.path)

again()
begin = time.monotonic()
act()
seconds = time.monotonic() - begin
after = len(store.all_runs())
kills = {20: 0, after: 0, "torn": 0}
for _ in range(14):
    again()
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    time.sleep(rng.uniform(0, 1.1 * seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills["torn"] += store.path.with_name(FILE + "-journal").exists()
    runs = Store(store.path.parent, create=True).all_runs()
    assert len({*runs["run_id"]}) == len(runs)
    kills[len(runs)] += 1
    layers = store.measured("layers", runs["run"].tolist()).groupby("run").size()
    assert layers.tolist() == [900] * len(runs), layers
print(kills[20], kills[after], kills["torn"])
"""


@pytest.mark.parametrize("action", ["delete", "merge"])
def test_killed_at_any_moment_all_is_changed_or_nothing(tmp_path: Path, action: str) -> None:
    done = in_a_process(KILLED, action, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    none, _, torn = map(int, done.stdout.split())
    assert none > 0
    assert torn > 0  # else nothing was killed while it wrote


# Merging


@pytest.fixture
def other(here: Path) -> Store:
    """A store of another machine's: the failed run is done there, and of the others the one that is missing here."""
    store = Store(here / "given" / "there", create=True)
    store.add([ended(RUNS[0]), ended(RUNS[-1]), ended(RUNS[1], "failed"), ended(RUNS[2])], note="there")
    return store


def state(store: Store) -> dict[str, Any]:
    """All of a store, whatever the numbers of its runs."""
    found = {name: store.measured(name, store.all_runs()["run"].tolist()) for name in MEASURED}
    runs = store.all_runs().astype(object)
    return {"runs": runs.where(runs.notna(), ""), **found}


def test_what_two_stores_share_is_there_once_and_nothing_is_lost(
    call: Callable[..., Ended], store: Store, other: Store
) -> None:
    bytes_there, before = other.path.read_bytes(), state(store)
    ended = call("+runs=learning_rates", "runs.merge=given/there")
    assert ended == Ended(
        0,
        f"{STORE}: 4 runs of given/there: 1 new, 1 in place of failed ones, 2 here already\n",
        "",
    )
    assert other.path.read_bytes() == bytes_there
    assert files(Path("given")) == ["there/runs.sqlite"]
    after = state(store)
    assert sorted(after["runs"]["run_id"]) == sorted(run.run_id for run in RUNS)
    kept = [run.run_id for run in RUNS[1:-1]]
    for name, table in after.items():
        rows = table[table["run_id"].isin(kept)].reset_index(drop=True)
        expected = before[name][before[name]["run_id"].isin(kept)].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, expected)
        come = table[~table["run_id"].isin(kept)].drop(columns="run").reset_index(drop=True)
        theirs = state(other)[name]
        theirs = theirs[~theirs["run_id"].isin(kept)].drop(columns="run").reset_index(drop=True)
        pd.testing.assert_frame_equal(come[[*theirs]], theirs)
    again = call("+runs=learning_rates", "runs.merge=given/there/runs.sqlite").out
    assert again.endswith("0 new, 0 in place of failed ones, 4 here already\n")
    assert all(after[name].equals(table) for name, table in state(store).items())


def test_runs_that_differ_to_the_bit_are_named_and_ours_stay(
    call: Callable[..., Ended], store: Store, other: Store
) -> None:
    different, in_layers = ended(RUNS[3]), ended(RUNS[4])
    different.curves[-1]["train_loss"] += 1e-9
    in_layers.layers[-1]["p50"] += 1e-9
    in_outcome = ended(RUNS[5])
    in_outcome.test_accuracy = math.nextafter(in_outcome.test_accuracy or 0, 1)
    other.add([different, in_layers, in_outcome, ended(RUNS[6])])
    before = state(store)
    told = call("+runs=learning_rates", "runs.merge=given/there").out.splitlines()
    assert told[1] == "3 of these had other results there, to the bit; those here stay:"
    label, *_, step, column, here, there = told[3].split()
    assert (label, step, column) == (RUNS[3].run_id[:4], str(different.curves[-1]["step"]), "train_loss")
    assert float(here) != float(there)
    assert [line.split()[0] for line in told[4:]] == [run.run_id[:4] for run in RUNS[4:6]]
    runs = state(store)["curves"].groupby("run_id")["train_loss"].sum()
    assert runs[RUNS[3].run_id] == before["curves"].groupby("run_id")["train_loss"].sum()[RUNS[3].run_id]


@pytest.mark.parametrize(
    ("ours", "theirs", "kept"),
    [
        ("done", "done", "ours"),
        ("done", "failed", "ours"),
        ("diverged", "done", "ours"),
        ("failed", "failed", "ours"),
        ("failed", "done", "theirs"),
        ("failed", "diverged", "theirs"),
    ],
)
def test_a_finished_run_beats_a_failed_one(tmp_path: Path, ours: Status, theirs: Status, kept: str) -> None:
    stores = {name: Store(tmp_path / name, create=True) for name in ("ours", "theirs")}
    for (name, store), status in zip(stores.items(), (ours, theirs), strict=True):
        store.add([ended(RUNS[0], status)], note=name)
    merged = stores["ours"].merge(stores["theirs"])
    assert stores["ours"].all_runs()["note"].tolist() == [kept]
    assert (merged.kept, merged.replaced) == ((1, 0) if kept == "ours" else (0, 1))
    assert bool(merged.differing) == (ours == "diverged")


def test_what_other_code_computed_and_what_was_not_measured_here_comes_too(
    call: Callable[..., Ended], other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a store that is not there yet; and what ended last is what is loaded."""
    new = Store(Path("results", "new"), create=True)
    new.add([ended(RUNS[0], finished="2026-01-03", curves=[{"step": 0, "train_loss": 0.5}])])
    of_code(monkeypatch, "old")
    odd = [{"step": 3, "train_loss": 0.25, "mine": 7.0}]
    other.add([ended(RUNS[0], finished="2026-01-01", curves=odd, units=[{"step": 1, "unit": 2, "p50": 1.0}])])
    assert "runs.sqlite: 5 runs of given/there: 4 new, 0 in" in call("+runs=new", "runs.merge=given/there").out
    runs = new.all_runs()
    (number,) = runs.loc[runs["code"] == "old", "run"]
    assert new.measured("curves", [number])["mine"].tolist() == [7.0]
    assert new.measured("units", [number])["unit"].tolist() == [2]
    assert "old" not in bnrepro.load("new").runs["code"].tolist()
    assert call("+runs=newer", "runs.merge=given/there").status == 0
    assert {*ids(Store(Path("results", "newer")))} == {*ids(other)}


def a_store_of_before(store: Store) -> None:
    make_old(store.path, SCHEMA_VERSION - 1)


def a_write_that_was_killed(store: Store) -> None:
    """A journal beside the file, from which SQLite undoes the half that was written."""
    rows = [{"step": step, "layer": 1, "p50": 0.5} for step in range(3000)]
    store.add([ended(RUNS[2], layers=rows)], replace=True)
    before = store.path.read_bytes()
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE runs SET status = 'failed', error = hex(zeroblob(100000))")
        db.execute("UPDATE layers SET p50 = 1e9")
        copies = [(path, path.read_bytes()) for path in store.path.parent.iterdir()]
        db.execute("ROLLBACK")
    assert len(copies) == 2
    assert all(not content.startswith(before) for _, content in copies)
    for path, content in copies:
        path.write_bytes(content)


def a_store_that_may_only_be_read(store: Store) -> None:
    store.path.chmod(0o400)


@pytest.mark.parametrize("make", [a_store_of_before, a_write_that_was_killed, a_store_that_may_only_be_read])
def test_the_other_store_is_left_as_it_is_to_the_byte(
    call: Callable[..., Ended], store: Store, other: Store, make: Callable[[Store], None]
) -> None:
    make(other)
    before = {path: path.read_bytes() for path in other.path.parent.iterdir()}
    ended = call("+runs=learning_rates", "runs.merge=given/there")
    assert (ended.status, ended.err) == (0, "")
    assert ": 4 runs of given/there: 1 new, 1 in place of failed ones, 2 here" in ended.out
    assert {path: path.read_bytes() for path in other.path.parent.iterdir()} == before


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda file: file.write_text("no store"), "file is not a database"),
        (lambda file: file.write_bytes(b""), "empty"),
        (lambda file: query(file, "PRAGMA application_id = 1"), "not a store of bnrepro"),
        (lambda file: query(file, "PRAGMA user_version = 77"), "schema 77, this version"),
        (lambda file: query(file, "UPDATE runs SET config = '[1]' WHERE run = 2"), "can't be used .*not an object"),
        (lambda file: query(file, "ALTER TABLE runs DROP COLUMN lr"), "can't be used .*no column lr"),
        (lambda file: file.write_bytes(file.read_bytes()[:8192] + b"U" * 40000), "(can't be used .*)?.*malformed"),
    ],
)
def test_another_store_that_is_none_changes_nothing(
    call: Callable[..., Ended], store: Store, other: Store, make: Callable[[Path], object], told: str
) -> None:
    make(other.path)
    before = (other.path.read_bytes(), store.path.read_bytes())
    for name in ("learning_rates", "new"):
        assert_one_line(call(f"+runs={name}", "runs.merge=given/there"), f"runs.merge=given/there: {told}")
    assert (other.path.read_bytes(), store.path.read_bytes()) == before
    assert not Path("results", "new").exists()


# Export


def test_tables_are_exported_and_no_file_is_written_over_unasked(call: Callable[..., Ended], store: Store) -> None:
    export = ["+runs=learning_rates", "runs.export=results/out/x.csv"]
    assert call(*export, "runs.where=norm=batch").out == "results/out/x.csv: 3 rows of 57 columns\n"
    assert_one_line(call(*export), "runs.export=results/out/x.csv: is there already; runs.yes=true writes over it$")
    assert len(pd.read_csv("results/out/x.csv")) == 3
    assert call(*export, "runs.yes=true").status == 0
    written, runs = pd.read_csv("results/out/x.csv", **EXACTLY), store.all_runs()
    assert written["run_id"].tolist() == runs["run_id"].tolist()
    assert {*written} == {*runs} - {"run"}
    assert [json.loads(value) for value in written["model.hidden"]] == runs["model.hidden"].tolist()
    assert written["test_accuracy"].equals(runs["test_accuracy"])
    assert call(*export, "runs.yes=true", "runs.table=layers").status == 0
    layers = pd.read_csv("results/out/x.csv", **EXACTLY)
    assert [*layers][:6] == ["run_id", "norm", "lr", "seed", "step", "layer"]
    numbers = runs["run"].tolist()
    assert layers["p50"].tolist() == store.measured("layers", numbers)["p50"].tolist()
    of_first = layers[layers["run_id"] == RUNS[1].run_id]
    assert {*zip(of_first["norm"], of_first["lr"], of_first["seed"], strict=True)} == {("none", 0.1, 1)}
    mixed = """UPDATE runs SET config = replace(config, '"early_measurements": 1.1', '"early_measurements": true')"""
    query(store.path, f"{mixed} WHERE run = 1")
    assert call(*export, "runs.yes=true").status == 0
    assert {*pd.read_csv("results/out/x.csv")["train.early_measurements"]} == {"true", "1.1"}


def test_measurements_of_one_run_by_two_codes_are_told_apart(
    call: Callable[..., Ended], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        of_code(patched, "old")
        store.add([ended(RUNS[1])])
    assert call("+runs=learning_rates", "runs.export=results/x.csv", "runs.table=curves").status == 0
    curves = pd.read_csv("results/x.csv")
    both = curves[curves["run_id"] == RUNS[1].run_id]
    assert both.groupby("code")["step"].nunique().to_dict() == {"old": 5, RUNS[1].code: 5}


def test_a_parquet_file_is_whole_or_what_it_takes_is_said(call: Callable[..., Ended], store: Store) -> None:
    ended = call("+runs=learning_rates", "runs.export=results/x.parquet")
    try:
        read = pd.read_parquet("results/x.parquet")
    except ImportError:
        assert_one_line(ended, "runs.export=results/x.parquet: needs pyarrow or fastparquet; python -m pip install ")
    else:
        assert read["run_id"].tolist() == ids(store)
    assert not list(Path("results").glob(".*"))
