"""The command line: Hydra composes ``conf/``, then one run or one sweep.

``python -m bnrepro`` trains one run; ``+sweep``, short for ``+sweep=learning_rates``, is the main job.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnrepro.config import CONF, RunConfig, Settings, compose, name_sweep
from bnrepro.errors import InputError

if TYPE_CHECKING:
    from bnrepro.train import Measurement

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
"""What the user wants, before :func:`main` sets the variable so that Hydra raises and does not print."""


class TrainingFailed(Exception):
    """Runs failed, as was reported; the jobs of ``--multirun`` that come after still train."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def command(composed: DictConfig) -> None:
    """One run, or the sweep that the settings name."""
    with bad_input_in_one_line():  # here too, since Hydra would print a line of its own
        settings = Settings.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        if not settings.grids:
            one_run(settings)
        else:
            overrides = HydraConfig.get().overrides.task
            for override in overrides:  # Hydra merges {} into what is there, which would train the whole grid
                if re.fullmatch(r"\+*sweep\.grid[\w.]*=\{\s*\}", override):
                    raise InputError(f"{override}: must list values for at least one setting")
            name = HydraConfig.get().runtime.choices["sweep"]
            if name is None:  # a scale without a sweep
                raise InputError(
                    f"sweep=null: must be one of {', '.join(sorted(p.stem for p in CONF.glob('sweep/*.yaml')))}"
                )
            sweep(settings, name, overrides)


def one_run(settings: Settings) -> None:
    """Train one run with live progress, unless it is stored; then say how it ended and where it is."""
    from tqdm import tqdm

    from bnrepro.store import Store
    from bnrepro.sweep import load_data, train_group

    run = RunConfig.parse(settings.run)
    store = Store(settings.results_dir / "single", create=True)
    if run.run_id in store.finished():
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
    (row,) = store.load([run.run_id]).runs.to_dict("records")
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
    from bnrepro.store import Store
    from bnrepro.sweep import Progress, expand, run_all, without

    runs = expand(settings.run, *settings.grids)
    folder = settings.results_dir / name
    store = Store(folder, create=True)
    missing = without(runs, store.finished())
    print(f"{name}: {len(runs)} runs, {len(runs) - len(missing)} found finished in {store.path}", flush=True)
    progress = Progress(len(missing))
    try:
        run_all(runs, store, settings.compute, progress)
    except KeyboardInterrupt:
        left = len(without(runs, store.finished()))
        print(f"\ninterrupted: {len(runs) - left} of {len(runs)} runs are stored; the same command goes on from there")
        sys.exit(130)
    if progress.failed:
        print(f"{progress.failed} runs failed; column error of {store.path} has the tracebacks", file=sys.stderr)
    finished = store.finished()
    if ended := [run for run in runs if run.run_id in finished]:
        show(name, ended, folder, overrides)
    if progress.failed:
        raise TrainingFailed


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
    sys.path.insert(0, str(Path.cwd()))  # as python -m does, so that import paths lead to the same
    with bad_input_in_one_line():
        _redraw(Path(file).stem, sys.argv[1:])


def _redraw(name: str, arguments: list[str]) -> None:
    from bnrepro.experiment import has_reference, make_reference, show, show_reference
    from bnrepro.store import FILE, Store
    from bnrepro.sweep import expand, without

    overrides = [argument for argument in arguments if argument != "--reference"]
    settings = Settings.parse(compose([f"+sweep={name}", *overrides]))
    runs = expand(settings.run, *settings.grids)
    folder = settings.results_dir / name
    missing = without(runs, Store(folder).finished() if (folder / FILE).exists() else set())
    if missing and not arguments and has_reference(name):
        print(f"{folder} has not all of the {len(runs)} runs; here is the reference", flush=True)
        show_reference(name)
    elif missing:
        command = shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *overrides])
        raise InputError(f"{len(missing)} of {len(runs)} runs are not in {folder}; to train them: {command}")
    elif arguments == overrides:
        show(name, runs, folder, overrides)
    else:
        make_reference(name, runs, folder)


def main() -> None:
    """Run the command."""
    sys.argv[1:] = map(name_sweep, sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with bad_input_in_one_line():
            command()
    except TrainingFailed:
        sys.exit(1)


if __name__ == "__main__":
    main()
