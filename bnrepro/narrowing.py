"""Keep the grids of a sweep to what is given beside them: every run has each setting that was given, or it is refused.

A grid is nested settings whose leaves are lists, its axes; here are the lists of values and no more of their meaning.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .errors import InputError
from .settings import to_override

Keys: TypeAlias = tuple[str, ...]
Grid: TypeAlias = dict[str, Any]

AROUND = (
    "compute", "results_dir", "sweep", "figures", "verify", "benchmark", "claims", "report", "reference", "runs", "help"
)  # fmt: skip
"""The keys of what is said around the runs, which no grid has."""

ABSENT = object()
"""The value of a setting that is not there."""

MOST_RUNS = 1_000_000
"""The runs that a sweep may have, and the values that a list may: more than are ever trained, few enough to hold."""

MOST_SHOWN = 4
LONGEST = 60
"""Values of an axis that are shown at most, and the characters that they may take; else their number is."""


class Given(NamedTuple):
    """What a user gave for a setting of the runs."""

    text: str
    """The override as the user wrote it."""
    path: Keys
    values: Sequence[Any]
    """The values of which every run has one; ``ABSENT`` if the setting is taken away."""
    option: bool = False
    """Whether this is an option of a group: axes within the group change it, but for that of its name."""
    listed: bool = False
    """Whether the user gave a list of values, which is an axis where there is none."""
    parts: Sequence[Given] = ()
    """The settings that were given, if they are some of a group."""


class _Change(NamedTuple):
    """An axis of which other values are left than a grid had."""

    axis: Keys
    before: Sequence[Any]
    after: Sequence[Any]
    below: bool
    """Whether what was given is a part of each value."""


class _NoValueFits(Exception):
    """The finding that no value of an axis has what was given."""

    def __init__(self, axis: Keys, values: Sequence[Any], below: Keys, value: object) -> None:
        self.axis, self.values, self.below, self.value = axis, values, below, value

    def __str__(self) -> str:
        filled = _put(copy.deepcopy(self.values[0]), self.below, self.value)
        written = f"sweep.grid.{'.'.join(self.axis)}=[{_in_grammar(filled)}]"
        return (
            f"none of the sweep's {len(self.values)} values of {'.'.join(self.axis)} has it; "
            f"instead write {shlex.quote(written)}"
        )


def narrow(
    grid: Grid, more: Sequence[Grid], given: Sequence[Given], typed: Mapping[Keys, str], typed_more: str | None
) -> tuple[Grid, list[Grid], list[str]]:
    """Keep a grid, and the grids that are made of it by changes, to what is given.

    An axis of just that setting gets the given values. Of an axis of a group the values stay that have them; changes
    of which none stays are left out.

    Args:
        grid: of the sweep.
        more: its changes to the grid.
        given: beside the sweep.
        typed: axes of the grid that were given themselves, with the override of each.
        typed_more: the override by which the changes were given.

    Returns:
        The grid, the changes, and a line for each of ``given`` by which they are others.

    Raises:
        InputError: if something given can't have an effect, or contradicts what was typed.
    """
    more, told = list(more), list[str]()
    for each in sorted(given, key=lambda g: len(g.path)):
        try:
            grid, changes = _narrowed(grid, each, whole=True)
        except _NoValueFits as none:
            raise InputError(f"{each.text}: {none}") from None
        other = next(
            (text for axis, text in typed.items() if any(axis[: len(c.axis)] == c.axis for c in changes)), None
        )
        left: list[Grid] = []
        for changed in more:
            try:
                narrowed, found = _narrowed(changed, each, whole=False)
            except _NoValueFits:
                continue
            left.append(narrowed)
            changes += found
            other = other or (typed_more if found else None)
        if other or (typed_more and len(left) < len(more)):
            raise InputError(f"{each.text}: not together with {other or typed_more}")
        told += _told(each, changes, len(more) - len(left))
        more = left
    return grid, more, told


def _told(given: Given, changes: Sequence[_Change], left_out: int) -> Iterator[str]:
    parts = []
    if changes:
        axis, before, after, below = changes[0]
        if below:
            parts.append(f"leaves {len(after)} of the sweep's {len(before)} values of {'.'.join(axis)}")
        else:
            parts.append(f"in place of the sweep's {_shortened(before)}")
    if left_out:
        parts.append(f"leaves out {left_out} of the sweep's grids, without such a value")
    if parts:
        yield f"{given.text}: {'; '.join(parts)}"


def _shortened(values: Sequence[Any]) -> str:
    shown = [*map(to_override, values)]
    if len(shown) > MOST_SHOWN:
        shown[MOST_SHOWN - 2 : -1] = ["…"]
    text = f"[{', '.join(shown)}]"
    return text if len(text) <= LONGEST else f"{len(values)} values"


def _narrowed(grid: Grid, given: Given, *, whole: bool) -> tuple[Grid, list[_Change]]:
    """Return the grid with the given values alone, and the axes that have others than before.

    Args:
        grid: the grid, or changes to one.
        given: what every run has.
        whole: whether this is the grid itself, where each of the given values has to fit; in changes one is enough.

    Raises:
        InputError: if what is given can't have an effect.
        _NoValueFits: if no value of an axis has it.
    """
    axis, found = _meet(grid, given.path)
    changes = list[_Change]()
    if given.parts and not (axis == given.path and isinstance(found, list)):
        for part in given.parts:
            grid, of_part = _narrowed(grid, part, whole=whole)
            changes += of_part
        return grid, changes
    if isinstance(found, list) and found:
        below = given.path[len(axis) :]
        if below:
            after = [value for value in found if any(_same(find(value, below), each) for each in given.values)]
            missing = [v for v in given.values if not any(_same(find(value, below), v) for value in found)]
            if not after or (missing and whole):
                raise _NoValueFits(axis, found, below, missing[0])
        elif ABSENT in given.values:
            raise InputError(f"{given.text}: has no effect, since the sweep's grid has values of {'.'.join(axis)}")
        else:
            after = list(given.values)
        if len(after) == len(found) and all(map(_same, after, found)):
            return grid, []
        return _put(copy.deepcopy(grid), axis, after), [_Change(axis, found, after, bool(below))]
    if isinstance(found, Mapping):
        return _narrowed_within(grid, given, found, whole)
    if given.listed and found is ABSENT:
        return _put(copy.deepcopy(grid), given.path, list(given.values)), []
    return grid, []


def _narrowed_within(grid: Grid, given: Given, axes: Mapping[str, Any], whole: bool) -> tuple[Grid, list[_Change]]:
    """Narrow a grid with axes within the group that is given: an option of it says the name, and no more."""
    if given.listed:
        below = ", ".join(".".join((*given.path, key)) for key in axes)
        raise InputError(f"{given.text}: not together with the sweep's axes {below}; --multirun makes a sweep of each")
    (option,) = given.values
    path, names = (*given.path, "name"), axes.get("name")
    if not given.option or not isinstance(names, list) or find(option, ("name",)) is ABSENT:
        return grid, []
    if not whole and option["name"] not in names:
        raise _NoValueFits(path, names, (), option["name"])
    return _narrowed(grid, Given(given.text, path, [option["name"]]), whole=whole)


def _meet(grid: Grid, path: Keys) -> tuple[Keys, Any]:
    """Return the axis at or above a path, with its values; else what the grid has there, axes within or ``ABSENT``."""
    node: Any = grid
    for depth, key in enumerate(path):
        if not isinstance(node, Mapping):
            return path[:depth], node
        node = node.get(key, ABSENT)
    return path, node


def find(settings: Any, path: Keys) -> Any:
    """Return the value at a path of nested settings and lists, or ``ABSENT``."""
    for key in path:
        if isinstance(settings, list) and key.isdecimal() and int(key) < len(settings):
            settings = settings[int(key)]
        elif isinstance(settings, Mapping) and key in settings:
            settings = settings[key]
        else:
            return ABSENT
    return settings


def _put(settings: Any, path: Keys, value: object) -> Any:
    """Return nested settings, or lists of them, with a value at a path; they are changed in place."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(settings, list):
        i = int(key)
        settings[i : i + 1] = [_put(settings[i] if i < len(settings) else {}, rest, value)]
        return settings
    node = settings if isinstance(settings, dict) else {}
    if value is ABSENT and not rest:
        node.pop(key, None)
    else:
        node[key] = _put(node.get(key), rest, value)
    return node


def _same(one: object, other: object) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def leaves(value: Any, path: Keys) -> Iterator[tuple[Keys, Any]]:
    """Yield the values within nested settings, each with its path; an empty group is a value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, str(key)))
    else:
        yield path, value


def _in_grammar(value: Any) -> str:
    """Write a value in the grammar of overrides."""
    # Here, since config imports this room, and workers that, without Hydra.
    from hydra.core.override_parser.types import Override, OverrideType, ValueType

    return Override(OverrideType.CHANGE, "", ValueType.ELEMENT, value).get_value_element_as_str(space_after_sep=True)
