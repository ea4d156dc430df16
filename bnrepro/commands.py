"""What the commands do, and what they print: train a run or a sweep, show it, verify it.

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
from .config import RunConfig, Settings
from .errors import InputError
from .explain import bad_input_in_one_line
from .interrupts import end_interrupted

if TYPE_CHECKING:
    from .store import RunResult
    from .train import Measurement

MOST_FAILURES = 10
"""Failed runs that are listed."""


class TrainingFailed(Exception):
    """Runs failed, or were not verified, as was reported; the jobs of ``--multirun`` that come after still train."""


def one_run(settings: Settings) -> None:
    """Train one run with live progress, unless it is stored; then say how it ended and where it is."""
    from tqdm import tqdm

    from .store import Store
    from .sweep import load_data, train_group

    run = RunConfig.parse(settings.run)
    store = Store(settings.results_dir / "single", create=True)
    if (run.run_id, run.code) in store.finished():
        print(f"found finished in {store.path}")
    else:
        data = load_data([run])[run.dataset]
        with tqdm(total=run.train.steps, unit="step", disable=not sys.stderr.isatty(), leave=False) as bar:

            def watch(measured: Measurement) -> None:
                line = (
                    f"step {measured.step:>6}  train loss {measured.train_loss[0]:.4f}  "
                    f"test accuracy {measured.test_accuracy[0]:.4f}"
                )
                bar.write(line, file=sys.stdout)
                bar.update(measured.step - bar.n)

            store.add(train_group([run], data, watch))
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
    from .experiment import show
    from .store import FILE, Store
    from .sweep import Progress, expand, run_all, without

    runs = expand(settings.run, *settings.grids)
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
        from .dry_run import preview  # whose measure of memory Windows has not

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
        report_failures(progress.failed, runs, store.path)
        raise TrainingFailed


def check(settings: Settings, name: str, choice: str | None) -> None:
    """Train some stored runs of the sweep again and compare."""
    from .verify import verify

    if choice is not None:
        raise InputError(f"verify.sweep={name}: not together with sweep={choice}")
    if not verify(settings.results_dir / name, settings.verify.sample, settings.compute, settings.run["dataset"]):
        raise TrainingFailed


def report_failures(failed: Sequence[RunResult], runs: Sequence[RunConfig], store: Path) -> None:
    """Say which of the runs failed, in their order, of what, and where to read more."""
    from .sweep import tell_apart

    print(f"{len(failed)} run{'s' * (len(failed) > 1)} failed:", file=sys.stderr)
    place = {run.run_id: i for i, run in enumerate(runs)}
    shown = sorted(failed, key=lambda result: place[result.config.run_id])[:MOST_FAILURES]
    for result, label in zip(shown, tell_apart([result.config for result in shown], runs), strict=True):
        print(f"  {label}: {headline(result.error or '')}", file=sys.stderr)
    if len(failed) > len(shown):
        print(f"  and {len(failed) - len(shown)} more", file=sys.stderr)
    print(f"their tracebacks: column error of {store}; the same command tries them again", file=sys.stderr)


def headline(error: str) -> str:
    """The line of a traceback that says what was raised; or the first line of another text."""
    lines = error.splitlines() or [""]
    indented = [i for i, line in enumerate(lines[:-1]) if line.startswith("  ")]
    return lines[indented[-1] + 1] if indented else lines[0]


def redraw(file: str) -> None:
    """Main function of ``experiments/NAME.py`` as a script: show what is stored, with the same overrides as the sweep.

    That is :func:`show`; ``--reference`` makes the reference data of what is stored.
    """
    sys.path.insert(0, str(Path.cwd()))  # as python -m does, so that import paths lead to the same
    overrides = [argument for argument in sys.argv[1:] if argument != "--reference"]
    with bad_input_in_one_line(overrides):
        name = Path(file).stem
        settings = Settings.parse(compose([f"+sweep={name}", *overrides]))
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
    from .store import FILE, Store
    from .sweep import expand, without

    if settings.dry_run or settings.force:
        raise InputError("sweep.show=true: not together with sweep.dry_run=true or sweep.force=true")
    runs = expand(settings.run, *settings.grids)
    folder = settings.results_dir / name
    store = Store(folder) if (folder / FILE).exists() else None
    missing = without(runs, store.finished() if store else set())
    if missing and not (overrides or as_reference) and experiment.has_reference(name):
        print(f"{folder} has not all of the {len(runs)} runs; here is the reference", flush=True)
        experiment.show_reference(name)
    elif missing:
        command = shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *overrides])
        stale = len(store.of_other_code(missing)) if store else 0
        told = f" ({stale} of them were computed by other code)" if stale else ""
        raise InputError(f"{len(missing)} of {len(runs)} runs are not in {folder}{told}; to train them: {command}")
    elif as_reference:
        experiment.make_reference(name, runs, folder)
    else:
        experiment.show(name, runs, folder, overrides)
