"""Do what the command line asks, and print it: train a run or a sweep, show it, verify it, list claims.

Errors are those of the rooms below; a command whose runs failed ends with :class:`TrainingFailed`.
"""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import places
from .composition import REFERENCE, compose, refuse
from .errors import InputError
from .explain import bad_input_in_one_line
from .interrupts import end_interrupted
from .startup import begin

if TYPE_CHECKING:
    import pandas as pd

    from .config import Settings


class TrainingFailed(Exception):
    """Runs failed, or were not verified, as was reported; the jobs of ``--multirun`` that come after still train."""


def one_run(settings: Settings, overrides: Sequence[str]) -> float | None:
    """Train one run with live progress, unless it is stored; then say how it ended and where it is, and draw it.

    Returns:
        The validation accuracy, the lowest there is if the run diverged; None if no images are held out.
    """
    from .api import runs_of, train_one

    (run,) = runs_of(settings, overrides)
    if settings.figures.style:  # else what draws is imported once the run has ended
        from .presenting import check_look

        check_look(settings.figures)
    try:
        store, found = train_one(run, settings.results_dir, sys.stdout)
    except KeyboardInterrupt as stop:
        end_interrupted(stop, "the run is not stored; the same command trains it from its first step")
    if found:
        print(f"found finished in {store.path}")
    results = store.load([run])
    (row,) = results.runs.to_dict("records")
    ending = {
        "done": f"test accuracy {row['test_accuracy']:.4f}",
        "diverged": f"at step {row['diverged_at']:.0f}",
        "failed": f"\n{row['error']}",
    }
    print(f"run {run.run_id}: {row['status']}, {ending[row['status']]}; stored in {store.path}")
    if row["status"] == "failed":
        raise TrainingFailed
    from . import presenting
    from .analysis import DIVERGED_ACCURACY

    for path in presenting.draw_run(results, store.path.parent, settings.figures):
        print(presenting.relative(path))
    if not settings.run["dataset"].get("validation"):
        return None
    return DIVERGED_ACCURACY if row["status"] == "diverged" else float(row["validation_accuracy"])


def sweep(settings: Settings, name: str, overrides: Sequence[str], reference_by: Sequence[str] = ()) -> None:
    """Train what is missing of the sweep, then show what its experiment shows.

    Args:
        settings: of the sweep.
        name: of the sweep.
        overrides: with which it was composed.
        reference_by: the overrides of the command that makes reference data of it, and shows these, if that is asked.
    """
    from . import reference
    from .api import command_of, failure_report, runs_of
    from .refining import Refinement
    from .store import FILE, Store
    from .sweeping import Progress, run_all, without

    grid, refinement = runs_of(settings, overrides), Refinement(settings)

    def check() -> None:
        from . import presenting  # which imports what draws

        presenting.check(name, grid, settings.figures)

    if not settings.dry_run:
        check()
    else:
        refuse(overrides, ["sweep.note"], "only where runs are trained")
    folder = settings.results_dir / name
    store = None if settings.dry_run and not (folder / FILE).exists() else Store(folder, create=not settings.dry_run)
    asked = partial(refinement.extend, grid, store)
    runs = asked()
    missing = without(runs, store.finished() if store else set())
    print(f"{name}: {len(runs)} runs, {len(runs) - len(missing)} found finished in {folder / FILE}", flush=True)
    if store and (stale := store.of_other_code(missing)):
        codes = ", ".join(sorted({*stale.values()}))
        print(f"{len(stale)} stored runs were computed by other code ({codes}) and are trained again", flush=True)
    if settings.force:
        missing = runs
    if store is None or settings.dry_run:
        from .dry_run import preview

        preview(runs, missing, store, settings.compute, check, refinement.most - (len(runs) - len(grid)))
        return

    from . import presenting

    progress = Progress(len(missing))
    drawn = presenting.figure_folder(folder, settings, overrides)
    again = [override for override in overrides if not override.startswith("sweep=")]
    command = command_of(name, [override for override in again if not override.startswith("sweep.note=")])

    def draw(*, quiet: bool = False) -> None:
        presenting.show(name, asked(), folder, drawn, settings.figures, command, quiet=quiet)

    try:
        with again_and_again(settings.redraw, partial(draw, quiet=True)):
            run_all(runs, store, settings.compute, progress, force=settings.force, asked=asked, note=settings.note)
        runs = asked()
        if reference_by and not progress.failed:
            reference.make_reference(name, runs, folder, settings.figures)
        elif any((run.run_id, run.code) in store.finished() for run in runs):
            draw()
    except KeyboardInterrupt as stop:
        runs = asked()
        left = len(without(runs, store.finished()))
        goes_on = shlex.join(["python", "-m", "bnrepro", *reference_by]) if reference_by else command_of(name, again)
        told = f"{len(runs) - left} of {len(runs)} runs are stored; to go on: {goes_on}"
        end_interrupted(stop, f"{progress.ended} runs were trained again" if settings.force else told)
    if progress.failed:
        print(failure_report(progress.failed, runs, store.path, settings.refine.key), file=sys.stderr)
        raise TrainingFailed


@contextmanager
def again_and_again(seconds: float | None, task: Callable[[], object]) -> Iterator[None]:
    """Do the task every so many seconds, as long as this lasts, in a thread of its own, whose errors are no matter."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            with suppress(Exception):  # such as no run yet; what the last drawing says is reported
                task()

    thread = threading.Thread(target=work, daemon=True)
    if seconds is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if seconds is not None:
            thread.join()


def claims() -> None:
    """List the paper's claims with their verdicts; in a checkout, write the list into its files, too."""
    from . import claims as room

    rows = room.ledger()
    print(room.spell_ledger(rows))
    _write_pages(rows)


def report(settings: Settings) -> None:
    """Make a page of all reference data, with the claims of the paper before them."""
    from .presenting import relative
    from .report import of_references

    print(relative(of_references(settings.results_dir, settings.figures)))


def _write_pages(rows: pd.DataFrame) -> None:
    """Write into the pages of a checkout what is made of all reference data."""
    from . import claims as room
    from . import stale

    if places.CHECKOUT:
        found = stale.standings()
        old = [name for name, (state, _) in found.items() if state == stale.STALE]
        for path in [
            *room.write_ledger(rows, places.CHECKOUT, old),
            *stale.write_table(places.CHECKOUT, found),
        ]:
            print(path.relative_to(places.CHECKOUT))


def make_references(settings: Settings, overrides: Sequence[str]) -> None:
    """Train what is missing of the reference data, sweep by sweep, write and show each that is whole, then the pages.

    A sweep that fails is told, and the others go on. With ``sweep.dry_run=true`` say what all of it would take.

    Raises:
        InputError: if there is no such sweep, none of them needs a folder that was given, or this is no checkout.
    """
    from . import claims as room
    from . import stale

    if places.CHECKOUT is None:
        raise InputError("+reference: only in a checkout of bnrepro, not where it is installed from a wheel")
    known, asked = stale.full_scale(), settings.reference.sweeps or []
    if unknown := [name for name in asked if name not in (*known, "all")]:
        raise InputError(f"reference.sweeps={unknown[0]}: must be all or some of {', '.join(known)}")
    around = [o for o in overrides if not o.startswith(("reference.", "sweep."))]
    of_each = {
        name: _at_full_scale(name, [*given, *around], settings)
        for name, given in known.items()
        if name in asked or "all" in asked
    }
    if (root := settings.reference.root) and not any("root" in each.run["dataset"] for each in of_each.values()):
        raise InputError(f"reference.root={root}: has no effect, since none of these sweeps reads files")
    if settings.dry_run:
        _print_estimates(of_each)
        return
    failed = []
    for name, each in of_each.items():
        print(f"== {name} ==", flush=True)
        try:
            sweep(each, name, [f"sweep={name}", *known[name], *around], reference_by=overrides)
        except (InputError, TrainingFailed) as error:
            failed.append(name)
            if str(error):
                print(f"bnrepro: {error}", file=sys.stderr, flush=True)
    _write_pages(room.ledger())
    if failed:
        print(f"bnrepro: not made, of which the reason stands above: {', '.join(failed)}", file=sys.stderr)
        raise TrainingFailed


def _at_full_scale(name: str, overrides: Sequence[str], settings: Settings) -> Settings:
    """Compose the sweep of which reference data are made, with the files of its data set where they were said to be."""
    from .config import Settings

    composed = compose([f"sweep={name}", *overrides])
    if (root := settings.reference.root) and "root" in composed["dataset"]:
        folder = Path(root).expanduser()
        own = folder / composed["dataset"]["name"]
        composed["dataset"]["root"] = str(own if own.is_dir() else folder)
    return Settings.parse(composed)


def _print_estimates(of_each: Mapping[str, Settings]) -> None:
    """Print what it would take to train what is missing of each sweep, and of all."""
    from tqdm import tqdm

    from .api import runs_of
    from .dry_run import estimate
    from .store import FILE, Store
    from .sweeping import without

    print(f"{'':24}{'runs':>6}{'to train':>10}{'about':>12}")
    total, failed = 0.0, False
    for name, settings in of_each.items():
        runs, folder = runs_of(settings, []), settings.results_dir / name
        store = Store(folder) if (folder / FILE).exists() else None
        missing = without(runs, store.finished() if store else set())
        try:
            seconds = estimate(runs, missing, store, settings.compute, lambda: None).seconds if missing else 0.0
        except InputError as error:
            failed = True
            print(f"{name:24}{len(runs):6}{len(missing):10}  {error}", flush=True)
            continue
        total += seconds
        print(f"{name:24}{len(runs):6}{len(missing):10}{tqdm.format_interval(seconds):>12}", flush=True)
    print(f"{'sum':40}{tqdm.format_interval(total):>12}")
    print("nothing was trained or stored: sweep.dry_run=true")
    if failed:
        raise TrainingFailed


def runs(settings: Settings, overrides: Sequence[str]) -> None:
    """List the stores, or the runs of one, or do with its runs what the settings say."""
    from . import runs as room

    try:
        room.look_after(settings.runs, settings.results_dir, overrides)
    except KeyboardInterrupt as stop:
        end_interrupted(stop, "what was to be changed in the store is changed as a whole, or not at all")


def check(settings: Settings, name: str) -> None:
    """Train some stored runs of the sweep again and compare; of its reference data if the name begins so."""
    verify: Callable[..., bool]
    if name.startswith(REFERENCE):
        from .stale import verify_reference as verify

        kept: str | Path = name.removeprefix(REFERENCE)
    else:
        from .verify import verify

        kept = settings.results_dir / name
    if not verify(kept, settings.verify.sample, settings.compute, settings.run["dataset"]):
        raise TrainingFailed


@begin()
def redraw(file: str) -> None:
    """Serve as main function of ``experiments/NAME.py`` run as a script: show what is stored.

    That is :func:`show`, with the same overrides as the sweep; ``--reference`` makes the reference data of what is
    stored.
    """
    overrides = [argument for argument in sys.argv[1:] if argument != "--reference"]
    with bad_input_in_one_line(overrides):
        from .config import Settings

        path = Path(file).resolve()
        name, clone = path.stem, path.parents[1]
        if (clone / places.PACKAGE.name / "commands.py").is_file() and clone != places.CHECKOUT:
            raise InputError(
                f"{file}: not of the bnrepro that is installed, {places.PACKAGE}; "
                f"python -m pip install -e {shlex.quote(str(clone))} installs its own"
            )
        settings = Settings.parse(compose([f"+sweep={name}", *overrides], print))
        if places.find_experiment(name) != path:
            raise InputError(f"{file}: not found by its name; it must be in experiments/ of the current folder")
        show(settings, name, overrides, as_reference=len(overrides) < len(sys.argv[1:]))


def show(settings: Settings, name: str, overrides: Sequence[str], *, as_reference: bool = False) -> None:
    """Show what is stored of a sweep, or its reference data if that is what ``sweep.show`` says, and train nothing.

    Args:
        settings: of the sweep.
        name: of the sweep.
        overrides: with which it was composed, besides its name.
        as_reference: make what is stored, which must be all of the sweep, the reference data.

    Raises:
        InputError: if no run is stored, naming the command that trains them; or if training was asked for.
    """
    from . import presenting, reference
    from .api import command_of, find_stored
    from .sweeping import without

    if settings.dry_run or settings.force or settings.redraw:
        raise InputError("sweep.show=true: not together with sweep.dry_run=true, sweep.force=true or sweep.redraw")
    refuse(overrides, ["sweep.note"], "only where runs are trained")
    if settings.show == "reference":
        if of_runs := [o for o in overrides if not o.lstrip("+").startswith(("figures.", "sweep.show="))]:
            raise InputError(f"{of_runs[0]}: reference/{name} has no variants")
        from . import stale

        reference.show_reference(name, settings.figures)
        print(stale.spell(name, stale.standing(name)))
        return
    folder = settings.results_dir / name
    runs, store, missing = find_stored(settings, name, overrides)
    if as_reference and missing:
        raise InputError(missing)
    if as_reference:
        reference.make_reference(name, runs, folder, settings.figures)
    elif store is None or len(without(runs, store.finished())) == len(runs):
        known = reference.known()
        told = f"; the reference data: python -m bnrepro +show=reference/{name}" if name in known else ""
        raise InputError(f"{missing}{told}")
    else:
        if missing:
            print(missing)
        drawn = presenting.figure_folder(folder, settings, overrides)
        presenting.show(name, runs, folder, drawn, settings.figures, command_of(name, overrides))
