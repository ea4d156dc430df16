"""Do what the command line asks, and print it: train a run or a sweep, show it, verify it.

Errors are those of the rooms below; a command whose runs failed ends with :class:`TrainingFailed`.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import places
from .composition import compose
from .errors import InputError
from .explain import bad_input_in_one_line
from .interrupts import end_interrupted
from .startup import begin

if TYPE_CHECKING:
    from .config import Settings


class TrainingFailed(Exception):
    """Runs failed, or were not verified, as was reported; the jobs of ``--multirun`` that come after still train."""


def one_run(settings: Settings, overrides: Sequence[str]) -> None:
    """Train one run with live progress, unless it is stored; then say how it ended and where it is."""
    from .api import runs_of, train_one

    (run,) = runs_of(settings, overrides)
    store, found = train_one(run, settings.results_dir, sys.stdout)
    if found:
        print(f"found finished in {store.path}")
    (row,) = store.load([run]).runs.to_dict("records")
    ending = {
        "done": f"test accuracy {row['test_accuracy']}",
        "diverged": f"at step {row['diverged_at']:.0f}",
        "failed": f"\n{row['error']}",
    }
    print(f"run {run.run_id}: {row['status']}, {ending[row['status']]}; stored in {store.path}")
    if row["status"] == "failed":
        raise TrainingFailed


def sweep(settings: Settings, name: str, overrides: Sequence[str]) -> None:
    """Train what is missing of the sweep, then show what its experiment shows."""
    from .api import failure_report, runs_of
    from .experiment import show
    from .store import FILE, Store
    from .sweeping import Progress, run_all, without

    runs = runs_of(settings, overrides)
    folder = settings.results_dir / name
    store = None if settings.dry_run and not (folder / FILE).exists() else Store(folder, create=not settings.dry_run)
    missing = without(runs, store.finished() if store else set())
    print(f"{name}: {len(runs)} runs, {len(runs) - len(missing)} found finished in {folder / FILE}", flush=True)
    if store and (stale := store.of_other_code(missing)):
        codes = ", ".join(sorted({*stale.values()}))
        print(f"{len(stale)} stored runs were computed by other code ({codes}) and are trained again", flush=True)
    if settings.force:
        missing = runs
    if store is None or settings.dry_run:
        from .dry_run import preview

        preview(runs, missing, store, settings.compute)
        return
    progress = Progress(len(missing))
    try:
        run_all(runs, store, settings.compute, progress, force=settings.force)
        finished = store.finished()
        if ended := [run for run in runs if (run.run_id, run.code) in finished]:
            show(name, ended, folder, overrides)
    except KeyboardInterrupt as stop:
        left = len(without(runs, store.finished()))
        command = shlex.join(["python", "-m", "bnrepro", *overrides])
        told = f"{len(runs) - left} of {len(runs)} runs are stored; to go on: {command}"
        end_interrupted(stop, f"{progress.ended} runs were trained again" if settings.force else told)
    if progress.failed:
        print(failure_report(progress.failed, runs, store.path), file=sys.stderr)
        raise TrainingFailed


def check(settings: Settings, name: str) -> None:
    """Train some stored runs of the sweep again and compare."""
    from .verify import verify

    if not verify(settings.results_dir / name, settings.verify.sample, settings.compute, settings.run["dataset"]):
        raise TrainingFailed


def redraw(file: str) -> None:
    """Serve as main function of ``experiments/NAME.py`` run as a script: show what is stored.

    That is :func:`show`, with the same overrides as the sweep; ``--reference`` makes the reference data of what is
    stored.
    """
    begin()
    overrides = [argument for argument in sys.argv[1:] if argument != "--reference"]
    with bad_input_in_one_line(overrides):
        from .config import Settings

        name = Path(file).stem
        settings = Settings.parse(compose([f"+sweep={name}", *overrides], print))
        if places.find_experiment(name) != Path(file).resolve():
            raise InputError(f"{file}: not found by its name; it must be in experiments/ of the current folder")
        show(settings, name, overrides, as_reference=len(overrides) < len(sys.argv[1:]))


def show(settings: Settings, name: str, overrides: Sequence[str], *, as_reference: bool = False) -> None:
    """Show what is stored of a sweep, and train nothing.

    Without a store and without overrides, the reference data are shown.

    Args:
        settings: of the sweep.
        name: of the sweep.
        overrides: with which it was composed, besides its name.
        as_reference: make it the reference data.

    Raises:
        InputError: if runs are missing otherwise, naming the command that trains them; or if training was asked for.
    """
    from . import experiment
    from .api import find_stored

    if settings.dry_run or settings.force:
        raise InputError("sweep.show=true: not together with sweep.dry_run=true or sweep.force=true")
    folder = settings.results_dir / name
    runs, _, missing = find_stored(settings, name, overrides)
    if missing and not (overrides or as_reference) and experiment.has_reference(name):
        print(f"{folder} has not all of the {len(runs)} runs; here is the reference", flush=True)
        experiment.show_reference(name)
    elif missing:
        raise InputError(missing)
    elif as_reference:
        experiment.make_reference(name, runs, folder)
    else:
        experiment.show(name, runs, folder, overrides)
