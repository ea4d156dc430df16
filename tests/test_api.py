"""From Python: the same runs as by the command, loaded one variant at a time, and the process left as it was."""

import asyncio
import logging
import os
import random
import re
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calls import SMALL, TINY, Ended, but, files, in_a_process
from hydra.core.global_hydra import GlobalHydra
from runs import a_run, assert_same_results

import bnrepro
from bnrepro import api
from bnrepro.api import load
from bnrepro.errors import InputError
from bnrepro.places import PACKAGE, REFERENCE
from bnrepro.store import FILE, RunResult, Store
from bnrepro.sweeping import Progress

LONGER, WIDER = but(SMALL, "train.steps=6"), but(SMALL, "sweep.grid.seed=[0,1]")


# Training


@pytest.mark.usefixtures("blank_figures")
def test_a_run_is_trained_once_and_is_the_one_of_the_command(
    here: Path, call: Callable[..., Ended], trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    results = api.train([*TINY, "model.norm=batch", "optimizer.lr=0.3"])
    assert repr(results) == "1 run: 1 done"
    assert results.runs[["norm", "lr"]].to_numpy().tolist() == [["batch", 0.3]]
    assert results.curves["step"].tolist()[-1] == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"(step +\d+  train loss \d\.\d{4}  test accuracy 0\.\d{4}\n)+", err)

    assert_same_results(api.train([*TINY, "model.norm=batch", "optimizer.lr=0.3"]), results)
    assert files(here) == ["results/single/runs.sqlite"]  # and no figure
    assert call(*TINY, "model.norm=batch", "optimizer.lr=0.3").out.startswith("found finished in ")
    assert len(trained) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("blank_figures")
def test_a_sweep_trains_what_is_missing_and_is_the_one_of_the_command(
    here: Path, call: Callable[..., Ended], trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    results = api.sweep("learning_rates", SMALL)
    assert repr(results) == "4 runs: 4 done; varies: activation, norm"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "4 of 4 runs, 00:00 left"
    assert "4 found finished" in call("+sweep", *SMALL).out
    wider = api.sweep(overrides=WIDER)
    assert repr(wider) == "8 runs: 8 done; varies: activation, norm, seed"
    assert len(trained) == 8
    api.sweep("learning_rates", [*SMALL, "sweep.force=true"])
    assert len(trained) == 12
    assert len(api.sweep("learning_rates", SMALL).runs) == 4


def test_runs_that_fail_are_warned_of_and_are_in_the_results(here: Path, mine: str) -> None:
    with pytest.warns(UserWarning, match=r"^run \w{16} failed: RuntimeError: broken on purpose$") as warned:
        results = api.train([*TINY, f"model.activation={mine}.Broken"])
    assert repr(results) == "1 run: 1 failed"
    with pytest.warns(UserWarning, match=r"^2 runs failed:\n  model.activation=.*: RuntimeError: broken") as also:
        results = api.sweep("learning_rates", [*SMALL, f"sweep.grid.model.activation=[relu,{mine}.Broken]"])
    assert repr(results) == "4 runs: 2 done, 2 failed; varies: activation, norm"
    assert {Path(warning.filename) for warning in [*warned, *also]} == {Path(__file__)}


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda: api.train(["model.foo=1"]), "model.foo=1: no such key"),
        (lambda: api.train(["optimizer.lr=-1"]), "optimizer.lr=-1: must be greater than 0"),
        (lambda: api.train(["+sweep"]), r"sweep: bnrepro.sweep\(NAME, overrides\) trains one"),
        (lambda: api.train(["+sweep/scale=mnist"]), r"sweep: bnrepro.sweep\(NAME, overrides\) trains one"),
        (
            lambda: api.train(["+claims"]),
            "claims=true: only on the command line, python -m bnrepro claims=true",
        ),
        (
            lambda: api.train(["+reference=batch_size"]),
            r'reference.sweeps=\["batch_size"\]: only on the command line, python -m bnrepro reference.sweeps=',
        ),
        (
            lambda: api.train(["+benchmark"]),
            "benchmark=full: only on the command line, python -m bnrepro benchmark=full",
        ),
        (lambda: api.train(["+help=lr"]), "help=lr: only on the command line, python -m bnrepro help=lr$"),
        (lambda: api.train(["+verify"]), "verify.sweep=learning_rates: only on the command line"),
        (lambda: api.train("seed=1"), "overrides=seed=1: must be a list"),
        (lambda: api.sweep("foo"), "sweep=foo: must be one of accelerating, batch_size, covariate_shift, "),
        (lambda: api.sweep("figure1", ["train.steps=0"]), "train.steps=0: must be greater than 0"),
        (lambda: api.sweep("figure1", ["+sweep"]), "sweep=learning_rates: the sweep is figure1, which is given by its"),
        (lambda: api.sweep("figure1", ["+show"]), "sweep=learning_rates: the sweep is figure1, which is given by its"),
        (lambda: api.sweep("figure1", ["sweep.dry_run=true"]), "sweep.dry_run=true: only on the command line"),
        (lambda: api.sweep("figure1", ["sweep.show=true"]), "sweep.show=true: only on the command line"),
        (lambda: api.train(["verify.sample=3"]), r"verify.sample=3: only with \+verify, on the command line"),
        (lambda: api.train(["compute=dask"]), "compute=dask: has no effect on a single run, which is trained as with"),
        (lambda: api.sweep("figure1", ["model.init.std=0.2"]), "model.init.std=0.2: none of the sweep's 5 values of"),
        (lambda: api.load("figure1", ["sweep.force=true"]), "sweep.force=true: only where runs are trained"),
        (lambda: api.load("figure1", ["sweep.note=x"]), "sweep.note=x: only where runs are trained"),
        (lambda: api.train(["sweep.note=x"]), "sweep: bnrepro.sweep"),
        (lambda: api.train(["+runs"]), "runs.store=all: only on the command line, python -m bnrepro runs.store=all"),
        (lambda: api.train(["runs.where=seed=1"]), r"runs.where=seed=1: only with \+runs, on the command line"),
        (lambda: api.sweep("figure1", ["sweep.grid={}"]), r"sweep.grid=\{\}: must list values"),
    ],
)
def test_bad_input_is_an_input_error(here: Path, use: Callable[[], Any], told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        use()
    assert not list(here.iterdir())


def state() -> dict[str, Any]:
    return {
        "arguments": sys.argv[:],
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "hydra": GlobalHydra.instance().hydra,
        "loggers": {name: logging.getLogger(name).level for name in (None, "distributed", "asyncio")},
        "random": [random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()],  # noqa: NPY002
        "warnings": warnings.filters[:],
        "numpy": np.geterr(),
        "pandas": pd.get_option("display.max_columns"),
    }


@pytest.mark.parametrize("compute", ["inline", "local"])
def test_the_process_is_left_as_it_was(here: Path, compute: str) -> None:
    before = state()
    api.sweep("learning_rates", but(SMALL, f"compute={compute}"))
    api.train(TINY)
    with pytest.raises(InputError):
        api.train(["model.foo=1"])
    assert state() == before


def test_ctrl_c_keeps_what_is_stored(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:

        def interrupted(self: Progress, results: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(Progress, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.sweep("learning_rates", [*SMALL, "compute.group_size=1"])
    with pytest.warns(UserWarning, match="^3 of 4 runs are not in results/learning_rates; to train them: "):
        assert len(load("learning_rates", SMALL).runs) == 1


def test_a_sweep_may_be_trained_within_a_running_loop(here: Path) -> None:
    async def cell() -> int:
        return len(api.sweep("learning_rates", SMALL).runs)

    assert asyncio.run(cell()) == 4


UNGUARDED = """
import asyncio
import bnrepro

async def cell():
    return bnrepro.sweep("learning_rates", {overrides})

print(repr(asyncio.run(cell())), flush=True)
"""


def test_a_script_needs_no_guard(tmp_path: Path) -> None:
    """Nor does a notebook: workers do not run it again."""
    overrides = but(SMALL, "compute=local", "compute.n_jobs=2")
    (tmp_path / "script.py").write_text(UNGUARDED.format(overrides=overrides))
    ended = in_a_process(["script.py"], tmp_path)
    assert (ended.status, ended.out) == (0, "4 runs: 4 done; varies: activation, norm\n"), ended.err


# Loading


@pytest.mark.parametrize("spelling", ["folder", "file", "text"])
def test_a_store_is_loaded_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "sweep", create=True)
    store.add([RunResult(a_run())])
    name: Any = {"folder": Path("sweep"), "file": store.path, "text": str(store.path)}[spelling]
    assert len(load(name).runs) == 1
    with pytest.raises(InputError, match="overrides go with the name of a sweep; results_dir=FOLDER is one of them"):
        load(name, [])


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", f"no/such/{FILE}", "learning_rates"])
def test_a_missing_store_is_named_and_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^results/{name.removesuffix(f'/{FILE}')}/{FILE}: no such store of runs$"):
        load(name)
    assert list(tmp_path.iterdir()) == []


def test_one_variant_is_loaded_and_two_are_never_mixed_in_silence(here: Path) -> None:
    api.sweep("learning_rates", SMALL)
    assert len(load("learning_rates").runs) == 4  # without a warning, which would be an error
    api.sweep("learning_rates", but(WIDER, "sweep.grid.optimizer.lr=[0.1,0.2]"))
    assert len(load("learning_rates").runs) == 16  # a wider grid is no other variant
    api.sweep("learning_rates", LONGER)
    told = "results/learning_rates/runs.sqlite: several variants of the sweep, which differ in train.steps; "
    with pytest.warns(UserWarning, match=f"^{told}") as warned:
        mixed = load("learning_rates")
    assert warned[0].filename == __file__
    assert repr(mixed) == "20 runs: 20 done; varies: activation, norm, lr, steps, seed"
    assert repr(load("learning_rates", LONGER)) == "4 runs: 4 done; varies: activation, norm"
    assert load("learning_rates", SMALL).curves["step"].max() == 5
    with pytest.raises(InputError, match=r"^96 of 96 runs are not in .*; to train them: python -m bnrepro \+sweep="):
        load("learning_rates", [])


def test_a_variant_of_which_runs_are_missing_says_so(here: Path) -> None:
    api.sweep("learning_rates", SMALL)
    with pytest.warns(
        UserWarning, match=r"^4 of 8 runs are not in .*; to train them: python .*seed=\[0,1\]'$"
    ) as warned:
        assert len(load("learning_rates", WIDER).runs) == 4
    assert warned[0].filename == __file__


def test_single_runs_are_loaded_together(here: Path) -> None:
    for lr in (0.1, 0.2):
        api.train([*TINY, f"optimizer.lr={lr}"])
    results = load("single")
    assert repr(results) == "2 runs: 2 done; varies: lr"
    assert sorted(results.curves.groupby("lr").size()) == [5, 5]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob("*/runs.csv.xz")))
def test_the_reference_is_loaded_by_its_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = load(f"reference/{name}")
    assert {"lr", "norm"} & {*results.varying} <= {*results.curves}
    assert repr(results).startswith(f"{len(results.runs)} runs: ")


def test_a_reference_that_is_not_there_is_bad_input() -> None:
    with pytest.raises(
        InputError, match=r"^reference/foo: must be one of reference/accelerating, reference/batch_size"
    ):
        load("reference/foo")
    with pytest.raises(InputError, match=r"^reference/figure1: has no variants, so no overrides$"):
        load("reference/figure1", [])


# The package


@pytest.mark.parametrize("order", [["bnrepro"], ["bnrepro.training", "bnrepro.sweeping"], ["bnrepro.api"]])
def test_the_package_has_its_functions_whatever_was_imported_before(tmp_path: Path, order: list[str]) -> None:
    code = f"import {', '.join(order)}, bnrepro.workers; from bnrepro import train, sweep, load, Results, InputError; "
    code += "print(bnrepro.train is train, callable(train), callable(bnrepro.sweep), sorted(bnrepro.__all__)); "
    code += "import bnrepro.training, bnrepro.sweeping; print(callable(bnrepro.train), callable(bnrepro.sweep))"
    ended = in_a_process(["-c", code], tmp_path)
    names = ["BatchNormalization", "InputError", "Results", "load", "sweep", "train"]
    assert ended.out == f"True True True {names}\nTrue True\n", ended.err


def test_no_module_of_the_package_can_take_the_place_of_a_function() -> None:
    assert {path.stem for path in PACKAGE.iterdir()}.isdisjoint(bnrepro.__all__)
    assert {*bnrepro.__all__} <= {*dir(bnrepro)}
    with pytest.raises(AttributeError, match="module 'bnrepro' has no attribute 'nothing'"):
        bnrepro.nothing  # type: ignore[attr-defined]  # noqa: B018


HEAVY = {"hydra", "numpy", "scipy", "pydantic", "pandas", "matplotlib", "sklearn"}


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("bnrepro", set()),
        ("bnrepro.batchnorm", {"numpy"}),
        ("bnrepro.__main__", {"hydra"}),  # which is all that --help and a mistake in a name need
        ("bnrepro.workers", {"numpy", "pydantic"}),
        ("bnrepro.sweeping", {"numpy", "pydantic"}),  # with the one before, what a worker needs
    ],
)
def test_importing_a_room_imports_no_library_that_it_does_not_need(
    tmp_path: Path, module: str, heavy: set[str]
) -> None:
    code = f"import {module}, sys; print(sorted({HEAVY} & {{*sys.modules}}))"
    assert in_a_process(["-c", code], tmp_path).out == f"{sorted(heavy)}\n"
