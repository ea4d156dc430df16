"""The command line: Hydra composes ``conf/``, then one run or one sweep.

``python -m bnrepro`` trains one run; ``+sweep``, short for ``+sweep=learning_rates``, is the main job.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bnrepro.config import CONF, RunConfig, Settings, compose
from bnrepro.errors import InputError

if TYPE_CHECKING:
    from bnrepro.train import Measurement

MAIN_JOB = "+sweep=learning_rates"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def command(composed: DictConfig) -> None:
    """One run, or the sweep that the settings name."""
    settings = Settings.parse(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    if settings.grid is None:
        one_run(settings)
    else:
        sweep(settings, HydraConfig.get().runtime.choices["sweep"], HydraConfig.get().overrides.task)


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
        "diverged": f"at step {row['diverged_at']}",
        "failed": f"\n{row['error']}",
    }
    print(f"run {run.run_id}: {row['status']}, {ending[row['status']]}; stored in {store.path}")
    if row["status"] == "failed":
        sys.exit(1)


def sweep(settings: Settings, name: str, overrides: Sequence[str]) -> None:
    """Train what is missing of the sweep, then show what its experiment shows."""
    from bnrepro.experiment import show
    from bnrepro.store import Store
    from bnrepro.sweep import Progress, expand, run_all, without

    assert settings.grid is not None
    runs = expand(settings.run, settings.grid)
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
    show(name, runs, folder, overrides)
    sys.exit(1 if progress.failed else 0)


def explain(error: Exception) -> str:
    """What the user did wrong, in one line: the key, the value and what is allowed."""
    cause: Any = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    options = getattr(error, "options", None)
    if options:  # an unknown option of a group
        group, _, option = str(error.missing_cfg_file).rpartition("/")  # type: ignore[attr-defined]
        return f"{group}={option}: must be one of {', '.join(options)}"
    if isinstance(cause, OmegaConfBaseException) and isinstance(cause.parent_node, DictConfig):
        return f"{cause.full_key}: no such key; known are {', '.join(map(str, cause.parent_node))}"
    return " ".join(str(error).split())


def report_bad_input(function: Callable[[], object]) -> None:
    """Call ``function``; a mistake in what the user gave ends the program with one line and status 1.

    ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    want_traceback = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises and does not print
    try:
        function()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        if want_traceback:
            raise
        print(f"bnrepro: {explain(error)}", file=sys.stderr)
        sys.exit(1)


def redraw(file: str) -> None:
    """Main function of ``experiments/NAME.py`` as a script: show what is stored, with the same overrides as the sweep.

    Nothing is trained; if runs are missing, one line says which command trains them.
    """
    report_bad_input(lambda: _redraw(Path(file).stem, sys.argv[1:]))


def _redraw(name: str, overrides: list[str]) -> None:
    from bnrepro.experiment import show
    from bnrepro.store import FILE, Store
    from bnrepro.sweep import expand, without

    settings = Settings.parse(compose([f"+sweep={name}", *overrides]))
    assert settings.grid is not None
    runs = expand(settings.run, settings.grid)
    folder = settings.results_dir / name
    missing = without(runs, Store(folder).finished() if (folder / FILE).exists() else set())
    if missing:
        command = shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *overrides])
        raise InputError(f"{len(missing)} of {len(runs)} runs are not in {folder}; to train them: {command}")
    show(name, runs, folder, overrides)


def main() -> None:
    """Run the command, with bare ``+sweep`` as the main job, which Hydra's own grammar would reject."""
    sys.argv[1:] = [MAIN_JOB if argument == "+sweep" else argument for argument in sys.argv[1:]]
    report_bad_input(command)


if __name__ == "__main__":
    main()
