"""Explain settings, options, sweeps, diagnostics and other names: what ``--help`` and ``+help=NAME`` print.

What a setting means stands in a comment of ``conf/`` alone; what is allowed is told by the types and tables of names.
"""

from __future__ import annotations

import difflib
import inspect
import re
import shlex
import string
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from pydantic import TypeAdapter

from . import places
from .composition import MEANT, compose, options
from .config import (
    COMPUTES,
    RUN_KEYS,
    TABLES,
    Declared,
    Settings,
    declared_settings,
    settings_around,
    settings_of,
    validated_value,
)
from .errors import InputError
from .measuring import Diagnostic
from .narrowing import ABSENT, find, leaves
from .recipe import ACTIVATIONS, INITIALIZERS, MEASURES, NORMS, Run
from .settings import flatten, to_override

WIDTH, LEFT = 100, 32
"""The columns of the screen, and those of what is explained in a line."""

NAMES: Mapping[str, Mapping[str, Any]] = {
    "model.activation": ACTIVATIONS.entries,
    "model.norm": NORMS.entries,
    "model.init.scheme": INITIALIZERS.entries,
    "diagnostics": MEASURES.entries,
}
"""The names that a setting may have for things, besides import paths, and the things."""

CLASSES: Mapping[str, Mapping[str, Any]] = {**{group: t.entries for group, t in TABLES.items()}, "compute": COMPUTES}
"""The groups of options, but for sweeps, and the classes behind their names."""

NEEDED = {"dataset.whitening_epsilon": "dataset.inputs=whitened"}
"""The setting without which another is refused."""


# Comments of option files


@cache
def comments(file: Path) -> Mapping[str, str]:
    """Return the comment of each dotted key of an option file, and that at its head by the key "".

    A comment stands behind the key, and goes on in the next lines if these begin in the same column; or above the key.
    """
    text = file.read_text("utf-8")
    lines, ends = text.splitlines(), dict[int, int]()
    for token in yaml.scan(text):
        begin, end = token.start_mark, token.end_mark
        if end.index > begin.index:
            ends |= {i: len(lines[i]) for i in range(begin.line, end.line)}
            ends[end.line] = max(ends.get(end.line, 0), end.column)
    at = {i: line.index("#", ends.get(i, 0)) for i, line in enumerate(lines) if "#" in line[ends.get(i, 0) :]}

    def told(below: Sequence[int]) -> str:
        return " ".join(lines[i][at[i] + 1 :].strip() for i in below if "# @package" not in lines[i])

    head = next(i for i in range(len(lines) + 1) if i not in at or i in ends)
    found = {"": told(range(head))}
    for key, place in _keys(yaml.compose(text)):
        behind, above = [place.line] * (place.line in at), list[int]()
        while behind and (i := behind[-1] + 1) not in ends and at.get(i) == at[place.line]:
            behind.append(i)
        while (i := place.line - 1 - len(above)) >= head and i not in ends and at.get(i) == place.column:
            above.insert(0, i)
        found[key] = told(behind or above)
    return found


def _keys(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of YAML, each with the place where it stands."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        yield f"{prefix}{key.value}", key.start_mark
        yield from _keys(value, f"{prefix}{key.value}.")


# What is allowed


def allowed(kind: Any, names: Mapping[str, Any] | None = None) -> str:
    """Say what a setting of this type may be; and if it names things, by what names."""
    text = _spelled(TypeAdapter(kind).json_schema())
    return text.replace("text", f"{', '.join(names)}, or an import path") if names else text


def _spelled(schema: Mapping[str, Any]) -> str:
    """Spell what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(map(_spelled, schema["anyOf"]))
    if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " or ".join(map(to_override, values))
    if schema.get("type") == "array":
        return f"list of {_spelled(schema['items'])}"
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    ends = ((sign, schema.get(key, 2**63)) for key, sign in signs.items())
    bounds = [f"{sign} {end:,.12g}" for sign, end in ends if abs(end) < 2**63]
    name = {"string": "text", "boolean": "true or false", "object": "settings"}.get(schema["type"], schema["type"])
    return " ".join([name, " and ".join(bounds)]).strip()


def another(found: Declared, now: object, names: Iterable[str] = (), comment: str = "") -> object:
    """Return a value that a setting may have, other than now.

    Where any text will do, that is one of the comment like ``FILE.csv``, else the name of the setting in capitals.
    """
    schemas = [schema := TypeAdapter(found.annotated).json_schema(), *schema.get("anyOf", ())]
    schemas += [schema["items"] for schema in schemas if "items" in schema]
    values = [*names, *(value for schema in schemas for value in schema.get("enum", ()))]
    like = re.search(r"(\w+://)?\b[A-Z]{3,}[:.]\w+", comment)
    text = like[0] if like else found.key.rpartition(".")[2].upper()
    if isinstance(now, list):
        longer = [*now, now[-1]] if now and not isinstance(now[-1], str) else None
        values = [*([*now, value] for value in values if value not in now), longer, [text], now[:1]]
    elif isinstance(now, bool):
        values += [not now]
    elif isinstance(now, int | float):
        values += [now // 2 if isinstance(now, int) else now / 2, 2 * abs(now)]
    for value in (*values, 0.1, 5, True, text, None, [f"{text}1", f"{text}2"], [text]):
        with suppress(InputError):
            if validated_value(found.annotated, value, found.key) != now:
                return value
    return now


# Lines on the screen


def _line(left: str, right: str, width: int = LEFT) -> str:
    """Write what is explained, and what it is beside it, or below where the first is long."""
    begin = textwrap.fill(left, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
    begin = begin.ljust(width) if len(begin) < width - 1 else f"{begin}\n{' ' * width}"
    told = right  # a command, to be pasted
    if not right.startswith("python "):
        told = textwrap.fill(right, WIDTH - width, break_long_words=False, break_on_hyphens=False)
    return (begin + told.replace("\n", f"\n{' ' * width}")).rstrip()


def _entry(told: Mapping[str, str]) -> str:
    """Write an entry: a line or more for each thing that is told."""
    return "\n".join(_line(label, text, 14) for label, text in told.items() if text)


def _described(thing: Any) -> str:
    """Say what is behind a name, with the first paragraph of its docstring."""
    if isinstance(thing, Diagnostic):
        thing = thing.measure
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    text = inspect.cleandoc(named.__doc__ or "").partition("\n\n")[0]
    plain = " ".join(re.sub(r":\w+:`~?|`", "", text).split())  # without marks of Sphinx
    return f"{named.__module__}.{named.__qualname__}: {plain}" if thing is not None else "nothing"


class Manual:
    """Entries on all there is, by their names: settings by dotted keys, options and other names as ``KEY/NAME``."""

    def __init__(self, composed: Mapping[str, Any], choices: Mapping[str, str | None]) -> None:
        """Take what a command leads to.

        Args:
            composed: the settings as Hydra composed them.
            choices: the option of each group, as Hydra has chosen it.
        """
        self.composed, self.choices = composed, choices
        self.options = {group: options(group) for group in (*CLASSES, "sweep")}
        self.declared = {found.key: found for found in (*declared_settings(), *settings_around())}
        for group, names in CLASSES.items():
            chosen = find(composed, (group, "name"))
            for name in (*reversed([*names]), *([] if chosen is ABSENT else [str(chosen)])):
                self.declared |= {found.key: found for found in settings_of(group, name)}

    # What --help prints

    def all(self, template: str) -> str:
        """Return Hydra's template of help with the groups of options, and the settings, put in."""
        return string.Template(template).substitute(APP_CONFIG_GROUPS=self.groups(), CONFIG=self.settings())

    def groups(self) -> str:
        """Return a line for each group of options."""
        return "\n".join(
            _line("+sweep=NAME" if group == "sweep" else f"{group}={self.choices.get(group)}", ", ".join(names))
            for group, names in self.options.items()
        )

    def settings(self, below: str = "") -> str:
        """Return a line for each setting, or for those below a key: its value, its comment, and what is allowed."""
        found = ((".".join(path), value) for path, value in leaves(self.composed, ()))
        names = {f"{group}.name" for group in CLASSES}
        return "\n".join(self._line(key, value) for key, value in found if key.startswith(below) and key not in names)

    def _line(self, key: str, value: object) -> str:
        allowed_ = self.allowed(key)
        return _line(f"{key}={_written(value)}", f"{self.comment(key)} [{allowed_}]" if allowed_ else self.comment(key))

    def comment(self, key: str) -> str:
        """Return what the option files say of a setting; else what the docstring of its class does; else nothing."""
        group, _, rest = key.partition(".")
        if group not in CLASSES:
            told = comments(places.CONF / "config.yaml")
            return told.get(key, told.get(group, ""))  # of the grid, there is none before a sweep adds it
        for option in (str(self.choices.get(group)), *self.options[group]):
            file = places.option_file(group, option)
            if file and (behind := comments(file).get(rest)):
                return behind
        owner = self.declared[key].owner if key in self.declared else None
        argument = re.search(rf"^ +{key.rpartition('.')[2]}: (.+)$", (owner and owner.__doc__) or "", re.MULTILINE)
        return argument[1] if argument else ""

    def allowed(self, key: str) -> str:
        """Say what a setting may be, if that is known."""
        group = key.removesuffix(".name")
        names = CLASSES[group] if group in CLASSES else NAMES.get(key)
        return allowed(self.declared[key].annotated, names) if key in self.declared else ""

    # What +help=NAME prints

    def entry(self, name: str) -> str:
        """Return the entry of a name, or those of all whose last part it is.

        Raises:
            InputError: if there is none, with the nearest names.
        """
        entries = self.entries()
        found = [name] if name in entries else [each for each in entries if each.endswith((f".{name}", f"/{name}"))]
        if not found:
            known = dict.fromkeys(part for each in entries for part in (each, re.split("[./]", each)[-1]))
            near = " or ".join(difflib.get_close_matches(name, known))
            told = f"did you mean {near}?" if near else "--help lists what there is"
            raise InputError(f"help={name}: no such setting, option, sweep or diagnostic; {told}")
        return "\n\n".join(f"{each}\n{entries[each]()}" for each in found)

    def entries(self) -> dict[str, Callable[[], str]]:
        """Return what writes each entry, by its name."""
        keys = dict.fromkeys([*self.declared, *(".".join(path) for path, _ in leaves(self.composed, ()))])
        groups = dict.fromkeys(key[: dot.start()] for key in keys for dot in re.finditer(r"\.", key))
        found: dict[str, Callable[[], str]] = {key: partial(self._of_setting, key) for key in keys}
        found |= {key: partial(self._of_group, key) for key in groups}
        for group, names in self.options.items():
            tell = partial(self._of_option, group) if group in CLASSES else self._of_sweep
            found |= {f"{group}/{name}": partial(tell, name) for name in names}
        found |= {f"{group}.name": found[group] for group in CLASSES}  # which is not given alone
        for key, named in NAMES.items():
            found |= {f"{key}/{name}": partial(self._of_name, key, name) for name in named}
        return found

    def _of_setting(self, key: str) -> str:
        group, found, value = key.partition(".")[0], self.declared.get(key), find(self.composed, tuple(key.split(".")))
        told = {"what": self.comment(key), "now": "" if value is ABSENT else _written(value)}
        if found is None:  # of a user's own class, or of a grid
            return _entry(told)
        given = _beside(group)
        if needed := NEEDED.get(key):
            told["only with"], given = needed, f"{given}{needed} "
        if value is ABSENT:
            choice, value = self._elsewhere(found)
            told |= {"only with": choice, "default": "" if value is None else _written(value)}
            given += f"{choice.partition(' or ')[0]} " if group in CLASSES else ""
        told["allowed"] = self.allowed(key)
        told |= {name: _described(thing) for name, thing in NAMES.get(key, {}).items()}
        if group in RUN_KEYS:
            told["identity"] = _identity(found)
            told["class"] = _described(found.owner) if found.owner not in (None, Run) else ""
        short = next((name for name, (_, meant) in MEANT.items() if meant[-1].startswith(f"{key}=")), None)
        if short:
            told["example"] = f"python -m bnrepro +{short}"
        elif (other := another(found, value, NAMES.get(key, ()), told["what"])) != value:
            told["example"] = f"python -m bnrepro {given}{_given(key, other)}"
        return _entry(told)

    def _elsewhere(self, found: Declared) -> tuple[str, Any]:
        """Return with what a setting is one that is none now, and its default there."""
        group, _, rest = found.key.partition(".")
        if group not in CLASSES:
            return "+sweep=NAME", None
        if names := [name for name, norm in NAMES["model.norm"].items() if norm and norm is found.owner]:
            return f"model.norm={' or '.join(names)}", getattr(found.owner, rest.rpartition(".")[2])
        names = [name for name in CLASSES[group] if found.key in {each.key for each in settings_of(group, name)}]
        if not names:  # a class of the user's own, which has a default for it
            return f"{group}.name={self.composed[group]['name']}", getattr(found.owner, rest, None)
        file = places.option_file(group, names[0])
        value = find(OmegaConf.to_container(OmegaConf.load(file)), tuple(rest.split("."))) if file else None
        return " or ".join(f"{group}={name}" for name in names), value

    def _of_group(self, key: str) -> str:
        told = {"now": str(self.choices.get(key))} if key in CLASSES else {"what": self.comment(key)}
        told |= {name: self._head(key, name) for name in self.options.get(key, ())}
        within = [each for each in self.declared if each.startswith(f"{key}.")]
        told["also"] = ", ".join(each for each in within if find(self.composed, tuple(each.split("."))) is ABSENT)
        return "\n".join(filter(None, [_entry(told), self.settings(f"{key}.")]))

    def _of_option(self, group: str, name: str) -> str:
        file = places.option_file(group, name)
        own: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
        told = {"what": self._head(group, name), "class": _described(CLASSES[group].get(own.get("name")))}
        chosen = Manual({**self.composed, group: own}, {**self.choices, group: name})
        told["example"] = f"python -m bnrepro {_beside(group)}{group}={name}"
        return "\n".join([_entry(told), chosen.settings(f"{group}.")])

    def _head(self, group: str, name: str) -> str:
        file = places.option_file(group, name)
        found = comments(file) if file else {}
        return found.get("") or found.get("name", "")

    def _of_sweep(self, name: str) -> str:
        from .experiment import import_experiment
        from .reference import known
        from .sweeping import expand

        experiment, settings = import_experiment(name), Settings.parse(compose([f"sweep={name}"]))
        told = {"what": self._head("sweep", name)}
        if experiment:
            told |= {f"claim {claim.id}": f"{claim.sentence} ({claim.section})" for claim in experiment.claims}
        count = len(expand(settings.run, *settings.grids))
        told["trains"] = f"{count} runs on {settings.run['dataset']['name']}" + ", and more" * bool(settings.refine.key)
        whole = dict(flatten(settings.grids[0]))
        for number, grid in enumerate(settings.grids):
            axes = {key: values for key, values in flatten(grid) if number == 0 or values != whole.get(key)}
            told[f"besides {number}" if number else "of"] = "; ".join(f"{k}={_written(v)}" for k, v in axes.items())
        told["example"] = f"python -m bnrepro +sweep={name}"
        told["shown by"] = f"python -m bnrepro +show=reference/{name}" if name in known() else ""
        return _entry(told)

    def _of_name(self, key: str, name: str) -> str:
        from .experiment import TABLE_OF

        thing, now = NAMES[key][name], find(self.composed, tuple(key.split(".")))
        told = {"what": _described(thing)}
        if isinstance(thing, Diagnostic):
            told |= {f"{TABLE_OF[column.level]}.{column.name}": column.label for column in thing.columns}
            now = [*(each for each in now if each != name), name]
        elif own := [each.key for each in self.declared.values() if thing is not None and each.owner is thing]:
            told["options"] = ", ".join(own)
        value = now if isinstance(thing, Diagnostic) else name
        told["example"] = f"python -m bnrepro {_given(key, value)}"
        return _entry(told)


def _beside(group: str) -> str:
    """Return the short command beside which the settings of a group have an effect, where it takes one."""
    command = "sweep" if group == "compute" else group
    return f"+{command} " if command in MEANT else ""


def _written(value: object) -> str:
    """Write a value as one types it, without quotes around names."""
    return to_override(value).replace('"', "")


def _given(key: str, value: object) -> str:
    """Write a setting with a value as it can be pasted into a shell."""
    return shlex.quote(f"{key}={_written(value).replace(' ', '')}")


def _identity(found: Declared) -> str:
    """Say what a setting of a run is to its identity."""
    if not found.setting.identity:
        return "not part of a run's identity: it changes no result"
    told = f"another value is another run; column {found.setting.column or found.key} of table runs"
    return f"{told}; runs that differ in it train in lock-step" if found.setting.per_run else told
