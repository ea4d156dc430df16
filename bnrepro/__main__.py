"""The command line: Hydra composes ``conf/``, then one run or one sweep.

``python -m bnrepro`` trains one run; ``+sweep``, short for ``+sweep=learning_rates``, is the main job; ``+verify``
trains some of its runs again and compares; ``+benchmark`` measures how fast all of this is.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnrepro import places
from bnrepro.config import RunConfig, Settings, complete_override, compose
from bnrepro.errors import InputError
from bnrepro.startup import VERSION_BASE, answer, begin

if TYPE_CHECKING:
    from bnrepro.store import RunResult
    from bnrepro.train import Measurement

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
"""What the user wants, before :func:`main` sets the variable so that Hydra raises and does not print."""


STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a program to end; Windows has no SIGHUP."""

MOST_FAILURES = 10
"""Failed runs that are listed."""


class TrainingFailed(Exception):
    """Runs failed, or were not verified, as was reported; the jobs of ``--multirun`` that come after still train."""


@hydra.main(config_path=str(places.CONF), config_name="config", **VERSION_BASE)
def command(composed: DictConfig) -> None:
    """One run, a sweep, the verification of one, or the benchmark, as the settings say."""
    with bad_input_in_one_line():  # here too, since Hydra would print a line of its own
        places.use(HydraConfig.get().runtime)
        settings = Settings.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        try:
            do(settings, HydraConfig.get().runtime.choices["sweep"], HydraConfig.get().overrides.task)
        except TrainingFailed:
            if HydraConfig.get().mode == RunMode.RUN:  # else more jobs may follow
                sys.exit(1)
            raise


def do(settings: Settings, choice: str | None, overrides: Sequence[str]) -> None:
    """What the settings say, with the sweep of this name."""
    if settings.benchmark:
        from bnrepro.benchmark import benchmark

        benchmark(settings)
        return
    if settings.verify.sweep is not None:
        check(settings, settings.verify.sweep, choice)
        return
    if not (settings.grids or settings.dry_run or settings.force or choice):
        one_run(settings)
        return
    for override in overrides:  # Hydra merges {} into what is there, which would train the whole grid
        if re.fullmatch(r"\+*sweep\.grid[\w.]*=\{\s*\}", override):
            raise InputError(f"{override}: must list values for at least one setting")
    if choice is None:  # a scale without a sweep, or sweep.dry_run
        names = GlobalHydra.instance().config_loader().get_group_options("sweep")
        raise InputError(f"sweep=null: must be one of {', '.join(names)}")
    if not settings.grids:
        raise InputError("sweep.grid: missing")
    sweep(settings, choice, overrides)


def one_run(settings: Settings) -> None:
    """Train one run with live progress, unless it is stored; then say how it ended and where it is."""
    from tqdm import tqdm

    from bnrepro.store import Store
    from bnrepro.sweep import load_data, train_group

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
    from bnrepro.experiment import show
    from bnrepro.store import FILE, Store
    from bnrepro.sweep import Progress, expand, run_all, without

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
        from bnrepro.dry_run import preview  # whose measure of memory Windows has not

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
    from bnrepro.verify import verify

    if choice is not None:
        raise InputError(f"verify.sweep={name}: not together with sweep={choice}")
    if not verify(settings.results_dir / name, settings.verify.sample, settings.compute, settings.run["dataset"]):
        raise TrainingFailed


def report_failures(failed: Sequence[RunResult], runs: Sequence[RunConfig], store: Path) -> None:
    """Say which of the runs failed, in their order, of what, and where to read more."""
    from bnrepro.sweep import tell_apart

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


def explain(error: Exception) -> str | None:
    """What the user did wrong: the key, the value and what is allowed; None if it was not the user."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        reason = error.message.rpartition("See ")[0].strip()
        return f"{error.override}: must be KEY=VALUE, or \"KEY='VALUE'\" with special characters ({reason})"
    cause, override = error.__cause__, re.search(r"To append to your config use \+(.*)", str(error))
    if override and isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        return f"{override[1]}: no such key; known are {', '.join(map(str, cause.parent_node))}"
    if isinstance(error, InputError | HydraException | OmegaConfBaseException):
        return str(error)
    if isinstance(error, OSError) and error.filename:  # data sets and stores report their own
        return f"results_dir: can't write {error.filename} ({error.strerror})"
    if str(error).startswith("Config group override must be"):
        return f"{error}; a group takes the name of an option, as in dataset=digits"
    return None


@contextmanager
def bad_input_in_one_line() -> Iterator[None]:
    """A mistake in what the user gave ends the program with one line and status 1.

    ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head, has had enough; what is left to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        explanation = explain(error)
        if TRACEBACK or explanation is None:
            raise
        print(f"bnrepro: {' '.join(explanation.split())}", file=sys.stderr)
        sys.exit(1)


def redraw(file: str) -> None:
    """Main function of ``experiments/NAME.py`` as a script: show what is stored, with the same overrides as the sweep.

    Nothing is trained. Without a store and without overrides, the reference data are shown; if runs are missing
    otherwise, one line says which command trains them. ``--reference`` makes the reference data of what is stored.
    """
    begin()
    with bad_input_in_one_line():
        _redraw(Path(file).resolve(), sys.argv[1:])


def _redraw(file: Path, arguments: list[str]) -> None:
    from bnrepro.experiment import has_reference, make_reference, show, show_reference
    from bnrepro.store import FILE, Store
    from bnrepro.sweep import expand, without

    name = file.stem
    overrides = [argument for argument in arguments if argument != "--reference"]
    settings = Settings.parse(compose([f"+sweep={name}", *overrides]))
    if places.find_experiment(name) != file:
        raise InputError(f"{file}: not found by its name; it must be in experiments/ of the current folder")
    runs = expand(settings.run, *settings.grids)
    folder = settings.results_dir / name
    store = Store(folder) if (folder / FILE).exists() else None
    missing = without(runs, store.finished() if store else set())
    if missing and not arguments and has_reference(name):
        print(f"{folder} has not all of the {len(runs)} runs; here is the reference", flush=True)
        show_reference(name)
    elif missing:
        command = shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *overrides])
        stale = len(store.of_other_code(missing)) if store else 0
        told = f" ({stale} of them were computed by other code)" if stale else ""
        raise InputError(f"{len(missing)} of {len(runs)} runs are not in {folder}{told}; to train them: {command}")
    elif arguments == overrides:
        show(name, runs, folder, overrides)
    else:
        make_reference(name, runs, folder)


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        """Of the signal with this number."""
        super().__init__()
        self.number = number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the program as Ctrl-C does; what comes after the first does not disturb the ending."""
    caught = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it

    def stop(number: int, frame: object) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_interrupted(stop: KeyboardInterrupt, told: str) -> NoReturn:
    """End with a line that begins with "interrupted", and the status that shells expect."""
    with suppress(OSError):  # the terminal may be gone
        print(f"\nbnrepro: interrupted; {told}", file=sys.stderr, flush=True)
    sys.exit(128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT))


def main() -> None:
    """Run the command."""
    if answered := answer(sys.argv):
        print(answered)
        return
    begin()
    sys.argv[1:] = map(complete_override, sys.argv[1:])
    if line := os.environ.get("COMP_LINE"):  # what a shell asks to complete: so far, and the word that is begun
        *words, begun = line.split(" ")
        os.environ["COMP_LINE"] = " ".join([*map(complete_override, words), begun])
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with stop_on_signals(), bad_input_in_one_line():
            command()
    except TrainingFailed:
        sys.exit(1)
    except KeyboardInterrupt as stop:
        end_interrupted(stop, "the same command goes on from what is stored")


if __name__ == "__main__":
    main()
