"""The command line: Hydra composes ``conf/``, then does what the settings say.

``python -m bnrepro`` trains one run; ``+sweep``, short for ``+sweep=learning_rates``, is the main job; ``+show`` draws
it again; ``+verify`` trains some of its runs again and compares; ``+benchmark`` measures how fast all of this is;
``+claims`` lists what the paper claims, and what came of it; ``+report`` makes a page of that; ``+reference`` makes
what all of that rests on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bnrepro import commands, places
from bnrepro.composition import complete, gather_lists, given_to, options, refuse, settle, typed
from bnrepro.errors import InputError
from bnrepro.explain import bad_input_in_one_line
from bnrepro.interrupts import end_interrupted, stop_on_signals
from bnrepro.narrowing import AROUND
from bnrepro.startup import VERSION_BASE, answer, begin

if TYPE_CHECKING:
    from bnrepro.config import Settings


@hydra.main(config_path=str(places.CONF), config_name="config", **VERSION_BASE)
def command(composed: DictConfig) -> float | None:
    """Do what the settings say: one run, a sweep, the verification of one, the benchmark, or the list of claims.

    Returns:
        The validation accuracy of one run, by which sweepers of Hydra choose that choose; None where there is none.
    """
    from bnrepro.config import Settings

    overrides = typed(given_to(HydraConfig.get()))
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        own = [override for override in overrides if override not in typed(sys.argv[1:])]
        print(f"== job {HydraConfig.get().job.num}: {' '.join(own or overrides)} ==", flush=True)
    with bad_input_in_one_line(overrides):  # here too, since Hydra would print a line of its own
        places.use(HydraConfig.get().runtime)
        plain: Any = OmegaConf.to_container(composed, resolve=True)
        settled = settle(plain, HydraConfig.get(), print)
        settings = Settings.parse(settled)
        if settings.help is not None:
            from bnrepro.help import Manual

            only(settings.commands)
            manual, template = Manual(settled, HydraConfig.get().runtime.choices), HydraConfig.get().help.template
            print(manual.all(template) if settings.help == "all" else manual.entry(settings.help))
            return None
        check_sweeper(HydraConfig.get(), settings)
        try:
            return do(settings, HydraConfig.get().runtime.choices["sweep"], overrides)
        except commands.TrainingFailed:
            if HydraConfig.get().mode == RunMode.RUN:  # else more jobs may follow
                sys.exit(1)
            raise


def check_sweeper(composed_hydra: Any, settings: Settings) -> None:
    """Refuse a sweeper of Hydra that chooses by what its jobs return, unless that is a validation accuracy to maximize.

    Raises:
        InputError: naming the setting and what is allowed.
    """
    choices, name = composed_hydra.runtime.choices, "hydra/sweeper"
    given = f"{name}={choices[name]}"
    if choices[name] == "basic":
        return
    if composed_hydra.mode == RunMode.RUN:
        raise InputError(f"{given}: only with --multirun")
    if choices["sweep"] is not None or settings.verify.sweep is not None:
        raise InputError(f"{given}: only with single runs, since it chooses by the accuracy of each")
    if not settings.run["dataset"].get("validation"):
        told = f"must be greater than 0 with {given}, which chooses by the accuracy on images held out from training"
        raise InputError(f"dataset.validation=0: {told}")
    if "minimize" in (direction := str(composed_hydra.sweeper.get("direction"))):
        told = "must be maximize, since runs are chosen by their accuracy"
        raise InputError(f"hydra.sweeper.direction={direction.removeprefix('Direction.')}: {told}")


def only(given: Iterable[str]) -> str:
    """Return the command that is given, if any is.

    Raises:
        InputError: if more than one is.
    """
    one, *others = [*given] or [""]
    if others:
        raise InputError(f"{one}: not together with {others[0]}")
    return one


def do(settings: Settings, choice: str | None, overrides: Sequence[str]) -> float | None:
    """Do what the settings say, with the sweep of this name; return the validation accuracy of one run, if it has one.

    Raises:
        InputError: naming the key, its value and what is allowed, or what has no effect.
    """
    one = only([*settings.commands, *([f"sweep={choice}"] if choice else [])])
    if settings.runs.store is not None:
        refuse(overrides, {*settings.run, *AROUND} - {"runs", "results_dir"}, "has no effect on +runs")
        commands.runs(settings, overrides)
        return None
    refuse(overrides, ["runs"], "only with +runs")
    if settings.reference.sweeps is not None:
        ignored = {*settings.run, *(f"sweep.{each}" for each in ("force", "show", "redraw", "note"))}
        refuse(overrides, ignored, "has no effect on +reference, which trains what conf/reference.yaml says")
        commands.make_references(settings, overrides)
        return None
    refuse(overrides, ["reference"], "only with +reference")
    if settings.claims:
        refuse(overrides, {*settings.run, *AROUND} - {"claims"}, f"has no effect on {one}")
        commands.claims()
        return None
    if settings.report:
        refuse(overrides, {*settings.run, *AROUND} - {"report", "results_dir", "figures"}, f"has no effect on {one}")
        refuse(overrides, ["figures.formats"], f"has no effect on {one}, whose figures are SVG")
        commands.report(settings)
        return None
    if settings.benchmark:
        ignored = {*settings.run, "compute", "sweep", "figures", "verify"}
        refuse(overrides, ignored, f"has no effect on {one}")
        from bnrepro.benchmark import benchmark

        benchmark(settings)
        return None
    if settings.verify.sweep is not None:
        ignored = {*settings.run, "sweep", "figures", "dataset.binarize"} - {"dataset"}
        refuse(overrides, ignored, "has no effect on +verify, which trains runs as they are stored")
        commands.check(settings, settings.verify.sweep)
        return None
    refuse(overrides, ["verify"], "only with +verify")
    if not (settings.grids or settings.dry_run or settings.force or settings.show or settings.redraw or choice):
        refuse(overrides, ["sweep.note"], "only with a sweep")
        return commands.one_run(settings, overrides)
    if choice is None:  # a scale without a sweep, or sweep.dry_run
        raise InputError(f"sweep=null: must be one of {', '.join(options('sweep'))}")
    if not settings.grids:
        raise InputError("sweep.grid: missing")
    if settings.show:
        commands.show(settings, choice, [o for o in overrides if not o.startswith(("sweep=", "sweep.show="))])
    else:
        commands.sweep(settings, choice, overrides)
    return None


def ask_for_help(arguments: Sequence[str]) -> list[str]:
    """Write ``--help`` as ``+help``, in a single job: Hydra would print settings without what they mean."""
    if not {"--help", "-h"} & {*arguments}:
        return [*arguments]
    return [*(each for each in arguments if each not in ("--help", "-h", "--multirun", "-m")), "+help"]


@begin()
def main() -> None:
    """Run the command line."""
    if answered := answer(sys.argv):
        print(answered)
        return
    overrides = sys.argv[1:] = complete(ask_for_help(sys.argv[1:]))
    if line := os.environ.get("COMP_LINE"):  # what a shell asks to complete: so far, and the word that is begun
        *words, begun = line.split(" ")
        with suppress(InputError):  # a list that is refused once the command is given
            os.environ["COMP_LINE"] = " ".join([*gather_lists(complete(words)), begun])
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with stop_on_signals(), bad_input_in_one_line(typed(overrides)):
            sys.argv[1:] = gather_lists(overrides)
            command()
    except commands.TrainingFailed:
        sys.exit(1)
    except KeyboardInterrupt as stop:
        end_interrupted(stop, "the same command starts over, but for the runs that are stored")


if __name__ == "__main__":
    main()
