"""Make settings of what a user types: overrides are completed, composed with ``conf/`` by Hydra, and complained about.

Nothing here knows what the settings mean.
"""

from __future__ import annotations

import difflib
import itertools
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from . import places
from .errors import InputError
from .narrowing import ABSENT, AROUND, MOST_RUNS, Given, Keys, find, leaves, narrow
from .startup import VERSION_BASE

MAIN_JOB = "learning_rates"

GRID, MORE, REFINE = ("sweep", "grid"), ("sweep", "more"), ("sweep", "refine")

LISTS = "sweep.lists"
"""The setting that holds overrides by lists of values, as the user wrote them."""

MOST_NEAR = 3
"""Settings of which at most a message asks whether they are meant."""

Tell: TypeAlias = Callable[[str], object]

MEANT = {
    "sweep": (MAIN_JOB, ["sweep={}"]),
    "show": (MAIN_JOB, ["sweep={}", "sweep.show=true"]),
    "verify": (MAIN_JOB, ["verify.sweep={}"]),
    "benchmark": ("full", ["benchmark={}"]),
    "reference": ("all", ["reference.sweeps=[{}]"]),
    "claims": ("true", ["claims={}"]),
    "report": ("true", ["report={}"]),
    "runs": ("all", ["runs.store={}"]),
    "help": ("all", ["help={}"]),
}
"""The default value of each short command, and the overrides that it stands for."""

OPEN = ("sweep.grid.", "sweep.more=", "model.norm_options.", "model.norm_options=")
"""The beginnings of overrides that may add keys without Hydra's ``+``."""

TEXT, TEXTS = ("sweep.note", "runs.merge", "runs.export"), ("runs.where", "runs.compare")
"""The settings that hold a text, whatever it would be to Hydra, and lists of texts, which need no brackets."""

REFERENCE = "reference/"
"""What stands before the name of a sweep of which the reference data are meant."""


def complete(overrides: Sequence[str]) -> list[str]:
    """Write overrides with ``+sweep``, ``+show`` and other short commands in Hydra's own grammar.

    Bare, they get a default value; with one, they need no ``+``. Nor does a key that is new where any may be. Texts are
    quoted.
    """
    completed = []
    for override in map(_with_texts_quoted, overrides):
        name, equals, value = override.removeprefix("+").partition("=")
        if name in MEANT and (equals or override.startswith("+")):
            default, meant = MEANT[name]
            if name == "show" and value.startswith(REFERENCE):
                value, meant = value.removeprefix(REFERENCE), ["sweep={}", "sweep.show=reference"]
            completed += [each.format(value if equals else default) for each in meant]
        else:
            completed.append(f"++{override}" if override.startswith(OPEN) else override)
    return completed


def _is_text(override: str) -> bool:
    """Tell whether an override is by a text, or by a list of texts."""
    key, equals, value = override.partition("=")
    return key.lstrip("+") in (*TEXT, *TEXTS) and bool(equals) and value != "null"


def _with_texts_quoted(override: str) -> str:
    if not _is_text(override):
        return override
    key, _, value = override.partition("=")
    return f"{key}={_quoted(value) if key.lstrip('+') in TEXT else '[' + ','.join(map(_quoted, _items(value))) + ']'}"


def _quoted(text: str) -> str:
    whole = re.fullmatch(r"""(['"])(\\.|(?!\1).)*\1""", text, re.DOTALL)
    return text if whole else QuotedString(text, Quote.single).with_quotes()


def _items(text: str) -> list[str]:
    """Return what stands between the commas of a list, brackets around it or not, but for those within brackets."""
    inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
    items, depth = [""], 0
    for part in re.findall(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|.""", inner, re.DOTALL):
        depth += (part in "[{(") - (part in ")}]")
        if part == "," and depth == 0:
            items.append("")
        else:
            items[-1] += part
    return [item.strip() for item in items if item.strip()]


def gather_lists(overrides: Sequence[str]) -> list[str]:
    """Put lists of values beside a sweep, as ``seed=range(0,10)``, where Hydra takes them for one value.

    Those of the grid become the values of an axis there, the others the setting ``sweep.lists``. Without a sweep, and
    with ``--multirun``, they stay what they are to Hydra.

    Raises:
        InputError: if a list has no end, no values, or too many.
    """
    parsed = [next(_parsed([override]), None) for override in overrides]
    multirun = {"-m", "--multirun", "hydra.mode=MULTIRUN"} & {*overrides}
    if multirun:
        jobs = 1
        for known in parsed:
            if known and known.is_range_sweep():
                jobs *= len(_listed(known))
                if jobs > MOST_RUNS:
                    raise InputError(f"{_text(known)}: makes {jobs} jobs of --multirun; must be at most {MOST_RUNS}")
    if multirun or not any(o and o.key_or_group == "sweep" and o.value() for o in parsed):
        return list(overrides)
    gathered, lists = [], []
    for override, known in zip(overrides, parsed, strict=True):
        if not known or not known.is_sweep_override() or known.is_delete():
            gathered.append(override)
        elif known.key_or_group.startswith("sweep.grid."):
            gathered.append(f"{known.get_key_element()}=[{','.join(_listed(known))}]")
        elif _path(known)[0] in (*AROUND, "hydra"):
            gathered.append(override)
        else:
            lists.append(QuotedString(override, Quote.single).with_quotes())
    return [*gathered, f"++{LISTS}=[{','.join(dict.fromkeys(lists))}]"] if lists else gathered


def typed(overrides: Sequence[str]) -> list[str]:
    """Write completed overrides as a user may type them."""
    found: list[str] = []
    for override in overrides:
        if override.startswith(f"++{LISTS}=['"):
            (gathered,) = _parsed([override])
            found += cast(list[str], gathered.value())
        elif _is_text(override) and (parsed := [*_parsed([override])]):
            value = parsed[0].value()
            found.append(f"{override.partition('=')[0]}={','.join(value) if isinstance(value, list) else value}")
        else:
            bare = override.removeprefix("++")
            found.append(bare if bare.startswith(OPEN) else override)
    return found


def given_to(composed_hydra: Any) -> list[str]:
    """Return the completed overrides with which Hydra composed, interpolations in them as they were written."""
    return cast(list[str], OmegaConf.to_container(composed_hydra.overrides.task))


def compose(overrides: Sequence[str], tell: Tell = lambda _: None) -> dict[str, Any]:
    """Compose ``conf/`` with overrides, completed as :func:`complete` does, and :func:`settle` them.

    Whatever Hydra the caller has set up, as an application of its own does, is left as it is.

    Raises:
        InputError: naming the override and what is allowed, if there is no such key or option, or if it has no effect.
    """
    completed = complete(overrides)
    try:
        completed = gather_lists(completed)
        with _hydra_on_conf():
            composed = hydra.compose("config", completed, return_hydra_config=True)
            composed_hydra = composed.hydra
            places.use(composed_hydra.runtime)
            return settle(_plain(composed), composed_hydra, tell)
    except InputError:
        raise
    except Exception as error:
        if told := mistake(error, typed(completed)):
            raise InputError(" ".join(told.split())) from error
        raise


def settle(settings: dict[str, Any], composed_hydra: Any, tell: Tell) -> dict[str, Any]:
    """Keep the grids of a sweep to what was given beside them, so that no override is dropped.

    Args:
        settings: as Hydra composed them.
        composed_hydra: the settings of Hydra itself that were composed with them.
        tell: what is called with a line for each override that narrows a grid.

    Raises:
        InputError: if an override has no effect, naming it.
    """
    task = given_to(composed_hydra)
    overrides = [o for o in _parsed(task) if _path(o)[0] != "hydra" and ".".join(_path(o)) != LISTS]
    _refuse_superseded(settings, overrides)
    if composed_hydra.runtime.choices.get("sweep") is None:
        for override in overrides:
            if _path(override)[:2] in (GRID, MORE):
                raise InputError(f"{_text(override)}: only with a sweep: +sweep=NAME, of {', '.join(options('sweep'))}")
        return settings
    sweep = settings["sweep"]
    lists = sweep.pop("lists") if any(o.startswith(f"++{LISTS}=['") for o in task) else []
    for override in overrides:
        for path, _ in leaves(override.value(), _path(override)) if _path(override)[:2] == GRID else ():
            _check_axis(settings, path[2:], _text(override))
    grid, more = sweep.get("grid"), sweep.get("more", [])
    if not (isinstance(grid, dict) and isinstance(more, list) and all(isinstance(each, dict) for each in more)):
        return settings
    given = [_given(o, settings) for o in overrides if _path(o)[0] not in AROUND]
    given += _given_lists(lists, [o for o in task if not o.startswith(f"++{LISTS}=")], given)
    axes, more_given = dict[Keys, str](), None
    for override in overrides:
        if _path(override)[:2] == GRID:
            axes |= {path[2:]: _text(override) for path, _ in leaves(override.value(), _path(override))}
        elif _path(override)[:2] == MORE:
            more_given = _text(override)
    sweep["grid"], narrowed, told = narrow(grid, more, given, axes, more_given)
    if more:
        sweep["more"] = narrowed
    told += _left_unrefined(sweep, {each.path: each.text for g in given for each in (g, *g.parts)} | axes, overrides)
    for line in told:
        tell(line)
    return settings


def _check_axis(settings: Mapping[str, Any], axis: Keys, text: str) -> None:
    """Refuse an axis of a grid that no run has as a setting, as far as that is known without a class of the user's."""
    known: Any = {key: value for key, value in settings.items() if key not in AROUND}
    for key in axis:
        if not isinstance(known, Mapping) or "name" in known:
            return
        if key not in known:
            raise InputError(f"{text}: no such key; known are {', '.join(known)}{_nearest('.'.join(axis))}")
        known = known[key]


def _left_unrefined(sweep: dict[str, Any], given: Mapping[Keys, str], overrides: Sequence[Override]) -> Iterator[str]:
    """Add no values to those that were given of the refined setting, unless the refinement was, too, and say so."""
    key = str(find(sweep, ("refine", "key")))
    text = given.get(tuple(key.split(".")))
    if text and not any(_within(_path(override), REFINE) for override in overrides):
        sweep["refine"] = sweep["refine"] | {"key": None}
        yield f"{text}: not refined, unless sweep.refine.key={key} is given, too"


def _refuse_superseded(settings: Mapping[str, Any], overrides: Sequence[Override]) -> None:
    """Refuse an override that a later one undoes, and one by nothing, which Hydra merges into what is there."""
    for i, override in enumerate(overrides):
        if override.is_delete():
            continue
        if _is_option(override):
            key, chosen = override.get_key_element().lstrip("+"), override.value()
            later = (o for o in overrides[i + 1 :] if o.get_key_element().lstrip("+~") == key and o.value() != chosen)
            superseded = next(later, None)
        else:
            superseded = None
            for path, value in leaves(override.value(), _path(override)):
                composed = find(settings, path)
                if value == {} and (composed != {} or path[:2] == GRID):
                    must = "list values for at least one setting" if path[:2] == GRID else "have at least one setting"
                    raise InputError(f"{_text(override)}: must {must}")
                if composed != value and value == value and "$" not in str(value):
                    later = (o for o in overrides[i + 1 :] if _within(_path(o), path) or _within(path, _path(o)))
                    superseded = superseded or next(later, None)
        if superseded:
            raise InputError(f"{_text(override)}: not together with {_text(superseded)}")


def _given(override: Override, settings: Mapping[str, Any]) -> Given:
    path = _path(override)
    parts = [
        Given(_text(override), part, [find(settings, part)])
        for part, _ in leaves(override.value(), path)
        if isinstance(override.value(), dict)
    ]
    return Given(_text(override), path, [find(settings, path)], option=_is_option(override), parts=parts)


def _given_lists(lists: Sequence[str], others: Sequence[str], given: Sequence[Given]) -> Iterator[Given]:
    """Yield what was given as lists, beside the other overrides, and what was given by these."""
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    before = [(each.text, part.path) for each in given for part in (each, *each.parts)]
    for (override,) in (parser.parse_overrides([text]) for text in lists):
        key, path, text = override.get_key_element(), _path(override), _text(override)
        for other, known in before:
            if known == path or (other in lists and (_within(known, path) or _within(path, known))):
                raise InputError(f"{other}: not together with {text}")
        before.append((text, path))
        each = [f"{key}={value}" for value in _listed(override)]
        if options(override.key_or_group):
            values = [find(_plain(hydra.compose("config", [*others, option])), path) for option in each]
        else:
            values = [parsed.value() for parsed in parser.parse_overrides(each)]
        yield Given(text, path, values, listed=True)


def _listed(override: Override) -> list[str]:
    """Return the values of a list, each as it stands in an override of one."""
    try:
        values = [*itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1)]
    except (HydraException, ValueError) as error:
        raise InputError(f"{_text(override)}: must be a finite list of values ({error})") from error
    if not values:
        raise InputError(f"{_text(override)}: must list at least one value")
    if len(values) > MOST_RUNS:
        raise InputError(f"{_text(override)}: must list at most {MOST_RUNS} values")
    return values


def _plain(composed: DictConfig) -> dict[str, Any]:
    with open_dict(composed):
        composed.pop("hydra", None)
    return cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))


def refuse(overrides: Sequence[str], keys: Collection[str], why: str) -> None:
    """Refuse overrides of settings at or below these keys.

    Raises:
        InputError: naming the override and why.
    """
    for override in _parsed(overrides):
        if any(_within(_path(override), tuple(key.split("."))) for key in keys):
            raise InputError(f"{_text(override)}: {why}")


def settings_given(overrides: Sequence[str]) -> Iterator[tuple[str, Keys, Any]]:
    """Yield what overrides give: their text, and each setting with its value."""
    for override in _parsed(overrides):
        if not override.is_delete():
            for path, value in leaves(override.value(), _path(override)):
                yield _text(override), path, value


def _within(path: Keys, group: Keys) -> bool:
    return path[: len(group)] == group


def _path(override: Override) -> Keys:
    """Return the keys under which an override stands among the settings."""
    return tuple((override.package or override.key_or_group).replace("/", ".").split("."))


def _text(override: Override) -> str:
    return typed([str(override.input_line)])[0]


def _is_option(override: Override) -> bool:
    """Tell whether the override is of a group and names one of its options."""
    return not isinstance(override.value(), dict) and bool(options(override.key_or_group))


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


def mistake(error: Exception, overrides: Sequence[str]) -> str | None:
    """Say what is wrong with the overrides, if Hydra raised the error over them: what was given and what is allowed."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: must be one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: must be KEY=VALUE, or \"KEY='VALUE'\" with special characters ({error.message})"
    cause = error.__cause__
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and isinstance(cause.parent_node, DictConfig):
        known, given = ", ".join(map(str, cause.parent_node)) or "none", _giving(str(cause.full_key), overrides)
        own = f"; +{given} if it is a field of a class of your own" if "name" in cause.parent_node else ""
        key = given.lstrip("+~").partition("=")[0]
        hint = _options_with(key) or own + _nearest(key)
        return f"{given}: no such key; known are {known}{hint}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        told = f"{error} ({cause})" if isinstance(cause, OmegaConfBaseException) else str(error)
        return _not_composed(overrides, error) if "is not an int" in told else _plainer(told, overrides)
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}: line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, YAMLError):
        return str(error)
    if isinstance(error, UnicodeDecodeError) and (file := _file_being_read(error)):
        return f"{file}: must be UTF-8 ({error})"
    if isinstance(error, ValueError) and _is_raised_by_hydra(error):
        return _no_option(overrides) or _not_composed(overrides, error)
    return None


def _options_with(key: str) -> str:
    """Say which options of a group have a setting that the chosen one lacks."""
    group, *path = key.split(".")
    having = []
    with _hydra_on_conf():
        for option in options(group) if path and group != "sweep" else ():
            with suppress(Exception):  # whatever is wrong with that option
                composed = _plain(hydra.compose("config", [f"{group}={option}"]))
                having += [f"{group}={option}"] * (find(composed, (group, *path)) is not ABSENT)
    return f"; with {' or '.join(having)} there is one" if having else ""


def _nearest(key: str) -> str:
    """Ask for the few settings whose dotted keys end as one that there is not, or are like it."""
    with _hydra_on_conf():
        keys = [".".join(path) for path, _ in leaves(_plain(hydra.compose("config")), ())]
    near = [each for each in keys if each.split(".")[-1] == key.split(".")[-1]]
    near = near if 0 < len(near) <= MOST_NEAR else difflib.get_close_matches(key, keys, MOST_NEAR, 0.8)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _plainer(told: str, overrides: Sequence[str]) -> str:
    """Say of some mistakes what to write instead, which Hydra does not."""
    twice = re.match(r"Could not append to config\..* at '(.+?)'\.|Multiple values for (\S+)\. To override", told)
    absent = re.match(r"Could not delete from config\. '(.+)' does not exist", told)
    axis = re.match(r"Error merging override \+*(sweep\.grid\S*?)=.*Cannot merge DictConfig with ListConfig", told)
    for override in _parsed(overrides):
        text, key = _text(override), override.key_or_group
        if twice and key == (twice[1] or twice[2]) and override.is_add():
            return f"{text}: there is one already, so without +: {text.lstrip('+')}"
        if absent and key == absent[1] and override.is_delete():
            return f"{text}: no such key{_nearest(key)}"
        if axis and key == axis[1] == ".".join(GRID):
            return f"{text}: must be settings, each with a list of values"
        if axis and key == axis[1]:
            return f"{text}: the sweep's grid has settings within {key}; ~{key}, given before it, takes these away"
    return told


def _file_being_read(error: Exception) -> str | None:
    """Return the file of options that Hydra was reading as the error was raised, which does not name it."""
    frames = (frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((str(known["full_path"]) for known in frames if "full_path" in known), None)


def _not_composed(overrides: Sequence[str], error: Exception) -> str:
    """Say which of the overrides can't be composed with those before it."""
    with _hydra_on_conf():
        composed = _plain(hydra.compose("config"))
        for i, text in enumerate(overrides):
            try:
                composed = _plain(hydra.compose("config", gather_lists(complete(overrides[: i + 1]))))
            except Exception as found:
                if str(found) != str(error):  # such as of what is for Hydra's command line alone
                    break
                for path in map(_path, _parsed([text])):
                    for depth in range(1, len(path)):
                        if isinstance(find(composed, path[:depth]), list):
                            whole = ".".join(path[:depth])
                            return f"{text}: {whole} is a list, which is given as a whole: {whole}=[VALUE,…]"
                return f"{text}: can't be composed ({error})"
    return f"{' '.join(overrides)}: can't be composed ({error})"


def _giving(key: str, overrides: Sequence[str]) -> str:
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
            yield from parser.parse_overrides([_with_texts_quoted(override)])
        except (OverrideParseException, ValueError):  # the latter of more digits than Python reads
            continue


def _is_raised_by_hydra(error: Exception) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("hydra", "omegaconf")
