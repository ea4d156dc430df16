"""How settings are declared, how they name things, and what of them tells one run from another.

Settings are the fields of dataclasses. What a field is to a run stands once, beside its type:
``seed: Annotated[int, Setting(per_run=True, column="seed")]``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Generic, TypeVar, cast, get_type_hints

from .errors import InputError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Setting:
    """The declaration of what a setting is to a run; what is not declared is as the defaults here say.

    A setting with a default in its dataclass is left out of the identity of a run where it has that value. So a
    setting that is added later, with the value that runs have had until then, leaves their identities as they are.
    """

    identity: bool = True
    """Whether another value of the setting makes another run."""
    per_run: bool = False
    """Whether runs that differ in the setting can be trained in lock-step."""
    column: str | None = None
    """The setting's own name as a column of table ``runs``; without one, the column has the dotted key."""
    key: str | None = None
    """The setting's dotted key, if it does not stand under the name of the field."""
    names: bool = False
    """Whether the value names something, which may be by import path."""
    described_by: str | None = None
    """An attribute of the same dataclass, itself a dataclass or None, whose fields are what the value says."""


def declarations(cls: type) -> Mapping[str, tuple[Setting, Any]]:
    """Return the settings that a dataclass declares: by the name of each field, what it is to a run, and its type."""
    return _declarations(cast(Hashable, cls))


@functools.cache
def _declarations(cls: Hashable) -> Mapping[str, tuple[Setting, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for f in fields(cast("type[Any]", cls)):
        declared = [extra for extra in getattr(hints[f.name], "__metadata__", ()) if isinstance(extra, Setting)]
        found[f.name] = (declared[0] if declared else Setting(), hints[f.name])
    return found


class Table(Generic[T]):
    """Things of one kind by their short names; a user's own are named by their import path."""

    def __init__(
        self,
        entries: Mapping[str, T],
        *,
        base: type | None = None,
        has_settings: bool = True,
        instance: type | None = None,
    ) -> None:
        """Keep what the short names stand for, and what a user's own must be.

        Args:
            entries: what each short name stands for.
            base: the class from which a user's own class derives, where names stand for classes.
            has_settings: whether such a class is a dataclass, whose fields are settings.
            instance: the class that a user's own object is of, where names stand for objects.
        """
        self.entries, self.base, self.has_settings, self.instance = dict(entries), base, has_settings, instance

    def resolve(self, name: object, key: str) -> T:
        """Return what ``name``, the value of the setting ``key``, stands for.

        Raises:
            InputError: naming the key, the name and what is allowed.
        """
        if isinstance(name, str) and name in self.entries:
            return self.entries[name]
        module, _, attribute = str(name).rpartition(".")
        try:
            imported = _imported(module)
        except (Exception, SystemExit) as error:  # whatever a module does as it is imported
            told = " ".join(f"{type(error).__name__}: {error}".split())
            raise InputError(f"{key}={name}: can't be imported ({told})") from error
        if imported is None or not hasattr(imported, attribute):
            raise InputError(
                f"{key}={to_override(name)}: must be one of {', '.join(self.entries)}, "
                "or an import path like package.module.Class"
            )
        found: T = getattr(imported, attribute)
        if not self._fits(found):
            raise InputError(f"{key}={name}: must be {self._kind()}")
        return found

    def _fits(self, found: object) -> bool:
        if self.instance:
            return isinstance(found, self.instance)
        if self.base is None:
            return callable(found)
        derived = isinstance(found, type) and self.base in found.__mro__  # protocols know no issubclass()
        return derived and not inspect.isabstract(found) and (is_dataclass(found) or not self.has_settings)

    def _kind(self) -> str:
        if self.instance:
            return f"a {_path(self.instance)}"
        if self.base is None:
            return "a function"
        if self.has_settings:
            return f"a dataclass derived from {_path(self.base)}, whose fields are the settings"
        return f"a class derived from {_path(self.base)}"


def _imported(module: str) -> object:
    """Import a module, or return None if there is none of that name."""
    if not all(module.split(".")):
        return None
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return None
        raise


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@dataclass(frozen=True, eq=False)
class Choice(Generic[T_co]):
    """A name among the settings, and the dataclass that it stands for. Equal, and hashed, by what makes a run."""

    name: str
    value: T_co

    @functools.cached_property
    def identity(self) -> str:
        """Return what of the choice makes another run, as JSON."""
        return to_json(describe(self, defaults=False))

    @functools.cached_property
    def shared(self) -> str:
        """Return what of the choice must be equal for runs in lock-step, as JSON."""
        return to_json(describe(self, defaults=False, per_run=False))

    @functools.cached_property
    def paths(self) -> frozenset[str]:
        """Return the import paths by which the choice names things."""
        return frozenset(name for name in names(self) if "." in name)

    def __eq__(self, other: object) -> bool:
        """Tell whether a result would be the same with the other choice."""
        return isinstance(other, Choice) and self.identity == other.identity

    def __hash__(self) -> int:
        """Hash what the choice is compared by."""
        return hash(self.identity)


def describe(value: Any, *, defaults: bool, per_run: bool = True) -> dict[str, Any]:
    """Return the settings of a dataclass, or of a choice of one, that make a run, as plain values by dotted layout.

    Args:
        value: the dataclass.
        defaults: whether settings at the default of their dataclass are among them.
        per_run: whether settings that may differ within a lock-step group are among them.
    """
    found: dict[str, Any] = {}
    if isinstance(value, Choice):
        found["name"], value = value.name, value.value
    for f in fields(value):
        declared, own = declarations(type(value))[f.name][0], getattr(value, f.name)
        if not declared.identity or (declared.per_run and not per_run) or not (defaults or own != _default(f)):
            continue
        if declared.described_by:
            described = getattr(value, declared.described_by)
            own = {} if described is None else describe(described, defaults=defaults, per_run=per_run)
        elif is_dataclass(own):
            own = describe(own, defaults=defaults, per_run=per_run)
        node, (*path, last) = found, (declared.key or f.name).split(".")
        for key in path:
            node = node.setdefault(key, {})
        node[last] = own
    return found


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def names(value: Any) -> Iterator[str]:
    """Yield all names that the settings of a dataclass, or of a choice of one, have for things."""
    if isinstance(value, Choice):
        yield value.name
        value = value.value
    for field, (declared, _) in declarations(type(value)).items():
        own = getattr(value, field)
        if declared.names:
            yield from [own] if isinstance(own, str) else own
        elif is_dataclass(own):
            yield from names(own)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested settings, by their dotted keys; an empty group has none."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_json(settings: Any) -> str:
    """Write settings in one spelling, whatever the order of their keys."""
    return json.dumps(settings, sort_keys=True)


def to_override(value: object) -> str:
    """Write a value as a command line has it: null, true, [1, 2]."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, default=str)
    return str(value)
