"""Train a run or a sweep from Python, and look at what is stored, in a notebook or a script.

What is trained and where it is stored is what the command line would train with the same overrides, and what is stored
is not trained again. Mistakes in what is given are InputError; nothing of the caller's process is changed.
"""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

from .composition import MAIN_JOB, REFINE, complete, compose, options, refuse, settings_given
from .config import RUN_KEYS, Inline, RunConfig, Settings
from .errors import InputError
from .refining import Refinement
from .store import FILE, Results, RunResult, Store
from .sweeping import (
    Progress,
    expand,
    headline,
    load_data,
    progress_bar,
    run_all,
    tell_apart,
    train_group,
    varying,
    without,
)
from .training import Measurement

MOST_FAILURES = 10
"""The number of failed runs that are listed at most."""


def train(overrides: Sequence[str] = ()) -> Results:
    """Train one run, unless it is stored already.

    Args:
        overrides: as on the command line: ``["model.norm=batch", "optimizer.lr=0.3"]``.

    Returns:
        The run, with its curve.

    Raises:
        InputError: naming the key, its value and what is allowed.

    Warns:
        UserWarning: if the run failed; column ``error`` of table ``runs`` has the traceback.
    """
    settings = _settings(overrides)
    if settings.grids or settings.force or settings.note:
        raise InputError("sweep: bnrepro.sweep(NAME, overrides) trains one")
    (run,) = runs_of(settings, overrides)
    store, _ = train_one(run, settings.results_dir)
    results = store.load([run])
    if results.runs["status"].tolist() == ["failed"]:
        warnings.warn(f"run {run.run_id} failed: {headline(results.runs['error'].iloc[0])}", stacklevel=2)
    return results


def sweep(name: str = MAIN_JOB, overrides: Sequence[str] = ()) -> Results:
    """Train what is missing of a sweep.

    Args:
        name: of the sweep, an option file of ``conf/sweep/``.
        overrides: as on the command line: ``["train.steps=500", "compute.n_jobs=2"]``.

    Returns:
        All runs of the sweep.

    Raises:
        InputError: naming the key, its value and what is allowed.

    Warns:
        UserWarning: if runs failed; column ``error`` of table ``runs`` has their tracebacks.
    """
    settings = _settings(_of_sweep(name, overrides))
    grid, refinement = runs_of(settings, overrides), Refinement(settings)
    store = Store(settings.results_dir / name, create=True)
    asked = partial(refinement.extend, grid, store)
    progress = Progress(len(asked() if settings.force else without(asked(), store.finished())))
    run_all(asked(), store, settings.compute, progress, force=settings.force, asked=asked, note=settings.note)
    if progress.failed:
        warnings.warn(failure_report(progress.failed, asked(), store.path, settings.refine.key), stacklevel=2)
    return store.load(asked())


def load(name: str | Path, overrides: Sequence[str] | None = None) -> Results:
    """Load what is stored; train nothing.

    Args:
        name: of a sweep, or ``single`` for single runs; the path of the folder or file of a store; or
            ``reference/NAME``, the reference data of a sweep.
        overrides: those with which a variant of the sweep was trained, ``[]`` for the sweep as it stands; the runs of
            that alone are loaded. By default all that is stored is.

    Raises:
        InputError: if there is no such store, or none of the runs is in it.

    Warns:
        UserWarning: if some of the runs of a variant are missing; or if what is loaded puts together variants of a
            sweep, or runs of different code.
    """
    path = Path(name)
    if path.parts[:1] == ("reference",) and len(path.parts) == 2:
        if overrides is not None:
            raise InputError(f"{name}: has no variants, so no overrides")
        from .reference import load_reference

        return load_reference(path.name)
    folder = path.parent if path.name == FILE else path
    if (folder / FILE).is_file():
        if overrides is not None:
            raise InputError(f"{name}: overrides go with the name of a sweep; results_dir=FOLDER is one of them")
        return Store(folder).load()
    if overrides is None:
        store, told = _whole_store(str(folder))
        if told:
            warnings.warn(told, stacklevel=2)
        return store.load()
    settings = _settings(_of_sweep(str(name), overrides))
    if settings.force:
        raise InputError("sweep.force=true: only where runs are trained")
    refuse(overrides, ["sweep.note"], "only where runs are trained")
    runs, found, told = find_stored(settings, str(name), overrides)
    results = found.load(runs) if found else None
    if results is None or results.runs.empty:
        raise InputError(str(told))
    if told:
        warnings.warn(told, stacklevel=2)
    return results


def _whole_store(name: str) -> tuple[Store, str | None]:
    """Return the store of that name, and what tells its runs apart if they are of more than one variant of a sweep."""
    settings = _settings(_of_sweep(name, []) if name in options("sweep") else [])
    store = Store(settings.results_dir / name)
    if not settings.grids:
        return store, None
    usual = varying([run.to_dict() for run in expand(settings.run, *settings.grids)])
    more = [key for key in varying([stored for _, _, stored in store.settings()]) if key not in usual]
    told = (
        f"{store.path}: several variants of the sweep, which differ in {', '.join(more)}; "
        f"load({name!r}, [OVERRIDE, …]) gives one of them, load({name!r}, []) the sweep as it stands"
    )
    return store, told if more else None


def _of_sweep(name: str, overrides: Sequence[str]) -> list[str]:
    if isinstance(overrides, str):
        raise InputError(f"overrides={overrides}: must be a list")
    for override in complete(overrides):
        if override.lstrip("+").startswith("sweep="):
            raise InputError(f"{override}: the sweep is {name}, which is given by itself")
    return [f"sweep={name}", *overrides]


def _settings(overrides: Sequence[str]) -> Settings:
    """Parse the settings of a run or a sweep; what else a command may do is refused."""
    if isinstance(overrides, str):
        raise InputError(f"overrides={overrides}: must be a list")
    settings = Settings.parse(compose(overrides))
    others = {"sweep.dry_run=true": settings.dry_run, "sweep.show=true": settings.show}
    for override in [*(each for each, given in others.items() if given), *settings.commands]:
        raise InputError(f"{override}: only on the command line, python -m bnrepro {override}")
    refuse(overrides, ["verify"], "only with +verify, on the command line")
    refuse(overrides, ["runs"], "only with +runs, on the command line")
    refuse(overrides, ["figures", "sweep.redraw"], "only on the command line, which draws")
    return settings


def runs_of(settings: Settings, overrides: Sequence[str]) -> list[RunConfig]:
    """Return the runs that are asked for: those of a sweep, or the one.

    Raises:
        InputError: naming the key, its value and what is allowed, or the override that none of the runs heeds.
    """
    if not (settings.grids or isinstance(settings.compute, Inline)):
        refuse(overrides, ["compute"], "has no effect on a single run, which is trained as with compute=inline")
    runs = expand(settings.run, *settings.grids) if settings.grids else [RunConfig.parse(settings.run)]
    for text, path, value in settings_given(overrides):
        if path[0] in RUN_KEYS and not any(run.has(path, null=value is None) for run in runs):
            raise InputError(f"{text}: has no effect, since {'.'.join(path)} is not a setting of any of the runs")
        if path[:2] == REFINE and not settings.grids:
            raise InputError(f"{text}: only with a sweep")
        if path[:2] == REFINE and settings.refine.key is None and path[2:] != ("key",):
            raise InputError(f"{text}: only with sweep.refine.key")
    return runs


def train_one(run: RunConfig, results_dir: Path, out: TextIO | None = None) -> tuple[Store, bool]:
    """Train a run in this process, unless it is stored already.

    Args:
        run: to be trained.
        results_dir: folder of the store of single runs.
        out: where to write a line for each measurement; None to show them in the bar, or where there is no bar on
            stderr.

    Returns:
        The store, and whether the run was found in it.

    Raises:
        InputError: if the data can't be loaded or the store can't be written.
    """
    store = Store(results_dir / "single", create=True)
    if (run.run_id, run.code) in store.finished():
        return store, True
    data = load_data([run])[run.dataset]
    with progress_bar(run.train.steps, "step", leave=False) as bar:
        file = out or (sys.stderr if bar.disable else None)

        def watch(measured: Measurement) -> None:
            told = f"train loss {measured.train_loss[0]:.4f}  test accuracy {measured.test_accuracy[0]:.4f}"
            if file:
                bar.write(f"step {measured.step:>6}  {told}", file=file)
            else:
                bar.set_postfix_str(told, refresh=False)
            bar.update(measured.step - bar.n)

        store.add(train_group([run], data, watch))
    return store, False


def find_stored(
    settings: Settings, name: str, overrides: Sequence[str]
) -> tuple[list[RunConfig], Store | None, str | None]:
    """Return the runs of a sweep, its store if there is one, and how many are missing and what trains them, if any.

    Of a refined sweep these are the runs that are asked for so far, by what is stored.
    """
    grid, refinement = runs_of(settings, overrides), Refinement(settings)
    folder = settings.results_dir / name
    store = Store(folder) if (folder / FILE).exists() else None
    runs = refinement.extend(grid, store)
    missing = without(runs, store.finished() if store else set())
    if not missing:
        return runs, store, None
    stale = len(store.of_other_code(missing)) if store else 0
    told = f" ({stale} of them were computed by other code)" if stale else ""
    return (
        runs,
        store,
        f"{len(missing)} of {len(runs)} runs are not in {folder}{told}; to train them: {command_of(name, overrides)}",
    )


def command_of(name: str, overrides: Sequence[str]) -> str:
    """Return the command that trains what is missing of a sweep, with these overrides besides its name."""
    return shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *overrides])


def failure_report(failed: Sequence[RunResult], runs: Sequence[RunConfig], store: Path, refined: str | None) -> str:
    """Say which of the runs failed, in their order, of what, and where to read more: a line each."""
    lines = [f"{len(failed)} run{'s' * (len(failed) > 1)} failed:"]
    place = {run.run_id: i for i, run in enumerate(runs)}
    shown = sorted(failed, key=lambda result: place[result.config.run_id])[:MOST_FAILURES]
    for result, label in zip(shown, tell_apart([result.config for result in shown], runs), strict=True):
        lines.append(f"  {label}: {headline(result.error or '')}")
    if len(failed) > len(shown):
        lines.append(f"  and {len(failed) - len(shown)} more")
    lines.append(f"their tracebacks: column error of {store}; the same command tries them again")
    if refined:
        lines.append(f"beside their values of {refined} the grid is not refined")
    return "\n".join(lines)
