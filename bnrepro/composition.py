"""Make settings of what a user types: overrides are completed, composed with ``conf/`` by Hydra, and complained about.

Nothing here knows what the settings mean.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from . import places
from .errors import InputError
from .startup import VERSION_BASE

MAIN_JOB = "learning_rates"

MEANT = {
    "sweep": (MAIN_JOB, ["sweep={}"]),
    "show": (MAIN_JOB, ["sweep={}", "sweep.show=true"]),
    "verify": (MAIN_JOB, ["verify.sweep={}"]),
    "benchmark": ("full", ["benchmark={}"]),
}
"""The default value of each short command, and the overrides that it stands for."""


def complete(overrides: Sequence[str]) -> list[str]:
    """Write overrides with ``+sweep``, ``+show``, ``+verify`` and ``+benchmark`` in Hydra's own grammar.

    Bare, they get a default value; with one, they need no ``+``.
    """
    completed = []
    for override in overrides:
        name, equals, value = override.removeprefix("+").partition("=")
        if name in MEANT and (equals or override.startswith("+")):
            default, meant = MEANT[name]
            completed += [each.format(value if equals else default) for each in meant]
        else:
            completed.append(override)
    return completed


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose ``conf/`` with overrides, completed as :func:`complete` does.

    Whatever Hydra the caller has set up, as an application of its own does, is left as it is.

    Raises:
        InputError: naming the override and what is allowed, if there is no such key or option.
    """
    completed = complete(overrides)
    try:
        refuse_empty_grids(completed)
        with _hydra_on_conf():
            composed = hydra.compose("config", completed, return_hydra_config=True)
        places.use(composed.hydra.runtime)
        with open_dict(composed):
            del composed["hydra"]
        settings = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except Exception as error:
        if told := mistake(error, completed):
            raise InputError(" ".join(told.split())) from error
        raise
    return settings


@contextmanager
def _hydra_on_conf() -> Iterator[None]:
    """Use Hydra as the command line has set it up; else one for as long as this lasts."""
    running, version = GlobalHydra.instance(), VersionBase.instance()
    before = running.hydra, version.version_base
    if before[0] and str(places.CONF) in [source.path for source in running.config_loader().get_sources()]:
        yield
        return
    running.clear()
    try:
        with hydra.initialize_config_dir(config_dir=str(places.CONF), **VERSION_BASE):
            yield
    finally:
        GlobalHydra.instance().hydra, version.version_base = before


def options(group: str) -> list[str]:
    """Return the options of a group; none if there is no such group."""
    with _hydra_on_conf():
        return GlobalHydra.instance().config_loader().get_group_options(group)


def refuse_empty_grids(overrides: Sequence[str]) -> None:
    """Refuse ``sweep.grid={}``: Hydra merges it into what is there, which would train the whole grid.

    Raises:
        InputError: naming the override.
    """
    for override in _parsed(overrides):
        if f"{override.key_or_group}.".startswith("sweep.grid.") and override.value() == {}:
            raise InputError(f"{override.input_line}: must list values for at least one setting")


def mistake(error: Exception, overrides: Sequence[str]) -> str | None:
    """Say what is wrong with the overrides, if Hydra raised the error over them: what was given and what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: must be KEY=VALUE, or \"KEY='VALUE'\" with special characters ({error.message})"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known = ", ".join(map(str, cause.parent_node))
        return f"{_given(str(cause.full_key), overrides)}: no such key; known are {known}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"{error} ({cause})" if isinstance(cause, OmegaConfBaseException) else str(error)
    if isinstance(error, ValueError) and _is_raised_by_hydra(error):
        return _no_option(overrides) or f"{' '.join(overrides)}: can't be composed ({error})"
    return None


def _given(key: str, overrides: Sequence[str]) -> str:
    """Return the override that sets ``key``, or something below it; the key itself if there is none."""
    at_or_below = (o for o in _parsed(overrides) if f"{o.key_or_group}.".startswith(f"{key}."))
    return next((str(override.input_line) for override in at_or_below), key)


def _no_option(overrides: Sequence[str]) -> str | None:
    """Say what is wrong with the first override of a group by something that is not the name of an option."""
    for override in _parsed(overrides):
        value, group = override.value(), override.key_or_group
        deletes = override.is_delete() and value is None
        if not (isinstance(value, str | list) or deletes) and (known := options(group)):
            return f"{override.input_line}: must be one of {', '.join(known)}"
    return None


def _parsed(overrides: Sequence[str]) -> Iterator[Override]:
    """Parse those of the overrides that can be parsed; options such as ``--multirun`` can't."""
    parser = OverridesParser.create()
    for override in overrides:
        try:
            yield from parser.parse_overrides([override])
        except OverrideParseException:
            continue


def _is_raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("hydra", "omegaconf")
