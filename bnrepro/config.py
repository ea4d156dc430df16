"""Define what one run is: typed and checked, with an identity; and what the names in settings stand for.

Hydra composes ``conf/``, which holds every default; here stand the types and the checks.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .datasets import DATASETS, Files
from .errors import InputError
from .measuring import check_columns
from .narrowing import ABSENT, AROUND, Keys, find
from .provenance import code_digest, digest
from .recipe import ACTIVATIONS, MEASURES, MODELS, NORMS, OPTIMIZERS, SCHEDULES, Count, Model, Run, Training
from .settings import Choice, Setting, Table, declarations, describe, to_json, to_override

T = TypeVar("T")


@functools.cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def validated(cls: type[T], options: object, key: str) -> T:
    """Return ``options`` as an instance of the dataclass ``cls``, converted and checked.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"{key}={to_override(options)}: must be a group of settings")
    _check_fields(options, cls, key)
    return cast(T, validated_value(cls, options, key))


def validated_value(kind: Any, value: object, key: str) -> Any:
    """Return ``value`` as one of a type, which may be annotated with what is allowed, converted and checked.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    try:
        found = _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise InputError(_explained(error.errors(), key, kind)) from error
    for where, integer in _integers(found, key):
        if not -(2**63) <= integer < 2**63:
            raise InputError(f"{where}={integer}: must fit in 64 bits, which is what SQLite can hold")
    return found


def _integers(value: Any, key: str) -> Iterator[tuple[str, int]]:
    """Yield the integers among settings, each with its dotted key."""
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value)}
    if isinstance(value, list):
        value = {str(i): each for i, each in enumerate(value)}
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _integers(inner, _join(key, str(name)))
    elif isinstance(value, int):
        yield key, value


ALLOWED: Mapping[str, str] = {
    "greater_than": "be greater than {gt}",
    "greater_than_equal": "be greater than or equal to {ge}",
    "less_than": "be less than {lt}",
    "less_than_equal": "be less than or equal to {le}",
    "finite_number": "be a finite number",
    "literal_error": "be {expected}",
    "dataclass_type": "be a group of settings",
    "too_short": "have at least {min_length} item",
    "string_too_short": "have at least {min_length} character",
}
"""The words for what is allowed, by pydantic's type of error."""

KINDS = {
    "float": "number", "int": "integer", "bool": "boolean", "string": "string", "list": "list", "dict": "dictionary",
    "path": "path",
}  # fmt: skip
"""The words for what is expected where pydantic's type of error is one of these and what is wrong with it."""


def _explained(errors: Sequence[ErrorDetails], key: str, kind: Any) -> str:
    error, path = errors[0], _path(errors[0])
    where = _join(key, *path)
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] == "value_error":  # raised by the class itself, which names the value
        return _join(where, str(error["ctx"]["error"]))
    allowed = " or ".join(dict.fromkeys(_allowed(each) for each in errors if _path(each) == path))
    null = ", or null" if _takes_null(kind, path) else ""
    return f"{where}={to_override(error['input'])}: must {allowed}{null}"


def _path(error: ErrorDetails) -> list[str]:
    # What is left out is the type that was tried, of several.
    return [part for part in map(str, error["loc"]) if "[" not in part and part not in ("bool", "constrained-float")]


def _allowed(error: ErrorDetails) -> str:
    kind = error["type"]
    if kind in ALLOWED:
        return ALLOWED[kind].format(**error.get("ctx", {}))
    expected = kind.partition("_")[0]
    return f"be a valid {KINDS[expected]}" if expected in KINDS else f"be right ({error['msg']})"


def _takes_null(kind: Any, path: Sequence[str]) -> bool:
    """Tell whether what stands at a path below a type may be null."""
    for name in path:
        kind = get_type_hints(kind).get(name) if is_dataclass(kind) else None
    return type(None) in get_args(kind)


def _check_fields(options: Mapping[str, Any], cls: Any, key: str) -> None:
    _check_keys(options, [f.name for f in fields(cls)], key)
    types = get_type_hints(cls)
    for name, value in options.items():
        if is_dataclass(types[name]) and isinstance(value, Mapping):
            _check_fields(value, types[name], _join(key, name))


def _check_keys(options: Mapping[str, Any], known: Sequence[str], key: str) -> None:
    for name, value in options.items():
        if name not in known:
            raise InputError(
                f"{_join(key, name)}={to_override(value)}: no such key; known are {', '.join(known) or 'none'}"
            )


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


class _Place(NamedTuple):
    """A field of a run, and where it stands among the settings."""

    name: str
    top: str
    below: str
    """The field's key within the group ``top``; empty if the field is all of that."""
    setting: Setting
    kind: Any
    default: Any


TABLES: Mapping[str, Table[Any]] = {
    "dataset": DATASETS,
    "model": MODELS,
    "optimizer": OPTIMIZERS,
    "lr_schedule": SCHEDULES,
}
"""The tables of names that the choices of a run choose from."""

FIELDS = [
    _Place(f.name, *(setting.key or f.name).partition(".")[::2], setting, kind, f.default)
    for f, (setting, kind) in zip(fields(Run), declarations(Run).values(), strict=True)
]
RUN_KEYS = tuple(dict.fromkeys(f.top for f in FIELDS))
"""The groups of settings that a run is made of."""


class Declared(NamedTuple):
    """A setting, as its dataclass declares it."""

    key: str
    setting: Setting
    kind: Any
    annotated: Any
    """The type, with what is allowed of it."""
    owner: type | None
    """The dataclass; None if the setting stands by itself."""


def declared_settings() -> Iterator[Declared]:
    """Yield every setting that the project's own classes declare, once: of a run, of each choice, and of each norm."""
    seen: set[str] = set()
    for found in _declared(Run, ""):
        if found.key not in seen:
            seen.add(found.key)
            yield found


def _declared(cls: type, prefix: str) -> Iterator[Declared]:
    for name, (setting, kind) in declarations(cls).items():
        key, bare = prefix + (setting.key or name), get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if get_origin(bare) is Choice:
            yield Declared(f"{key}.name", replace(setting, names=True), str, str, None)
            for chosen in TABLES[name].entries.values():
                yield from _declared(chosen, f"{key}.")
        elif setting.described_by:
            for norm in filter(None, NORMS.entries.values()):
                yield from _declared(norm, f"{key}.")
        elif is_dataclass(bare):
            inner = _declared(cast(type, bare), f"{key}.")
            yield from (
                (d._replace(setting=replace(d.setting, per_run=True)) for d in inner) if setting.per_run else inner
            )
        else:
            yield Declared(key, setting, bare, kind, cls)


def settings_of(group: str, name: str) -> Iterator[Declared]:
    """Yield the settings of what is chosen in a group by a name, as ``mlp`` of ``model``.

    Raises:
        InputError: if there is no such thing.
    """
    cls = COMPUTES[name] if group == "compute" else TABLES[group].resolve(name, f"{group}.name")
    yield from _declared(cls, f"{group}.")
    yield from (found for found in declared_settings() if found.owner is Run and found.key.startswith(f"{group}."))


def settings_around() -> Iterator[Declared]:
    """Yield every setting of what is said around the runs, but for those of the places to compute."""
    kinds = get_type_hints(Settings, include_extras=True) | {"sweep": _Sweep, "results_dir": str}
    for key in AROUND:
        if is_dataclass(kinds[key]):
            yield from (found for found in _declared(kinds[key], f"{key}.") if key != "compute")
        else:
            yield Declared(key, Setting(identity=False), kinds[key], kinds[key], None)


COLUMNS = {found.key: found.setting.column for found in declared_settings() if found.setting.column}
"""The settings that have a column of their own name in table ``runs``."""

SETTING_COLUMNS = {COLUMNS.get(found.key, found.key) for found in declared_settings()}
"""Columns of table ``runs`` that are settings; so are those of a user's own classes, which have dotted names."""


def parse_part(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Parse the fields of a run that ``settings[key]`` stands for, where ``key`` is one of ``RUN_KEYS``.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    found, options = dict[str, Any](), settings.get(key)
    below = {f.below: f for f in FIELDS if f.top == key and f.below}
    if below and isinstance(options, Mapping):
        for name, f in below.items():
            if name not in options:
                raise InputError(f"{key}.{name}: missing")
            found[f.name] = validated_value(f.kind, options[name], f"{key}.{name}")
        options = {name: value for name, value in options.items() if name not in below}
    (whole,) = (f for f in FIELDS if f.top == key and not f.below)
    if key in TABLES:
        found[whole.name] = _choice(TABLES[key], options, key, [*below])
    elif is_dataclass(whole.kind):
        found[whole.name] = validated(cast(type, whole.kind), options, key)
    elif key not in settings:
        raise InputError(f"{key}: missing")
    else:
        found[whole.name] = validated_value(whole.kind, options, key)
    if key == "diagnostics":
        found[key] = sorted({*found[key]})
        measured = {name: MEASURES.resolve(name, key) for name in found[key]}
        check_columns(measured, taken=["code", *SETTING_COLUMNS])
    return found


def _choice(table: Table[Any], options: object, key: str, beside: Sequence[str]) -> Choice[Any]:
    """Parse a choice from a group of settings with a ``name``; the rest are the fields of the dataclass so named.

    Args:
        table: of what the names stand for.
        options: the group, without those of its settings that are fields of the run.
        key: of the group.
        beside: the names of these.
    """
    if not isinstance(options, Mapping) or "name" not in options:
        raise InputError(f"{key}={to_override(options)}: must be a group of settings with a name")
    chosen = table.resolve(options["name"], f"{key}.name")
    own_name = any(f.name == "name" for f in fields(chosen))
    rest = {name: value for name, value in options.items() if name != "name" or own_name}
    _check_keys(rest, [*beside, *(f.name for f in fields(chosen))], key)
    value = validated(chosen, rest, key)
    if isinstance(value, Files):
        value = value.pinned()
    return Choice(options["name"], _with_whole_options(value, key) if isinstance(value, Model) else value)


def _with_whole_options(model: Model, key: str) -> Model:
    """Return the model with its activation and the options of its norm checked, and the norm's defaults filled in."""
    try:
        inspect.signature(ACTIVATIONS.resolve(model.activation, f"{key}.activation")).bind()
    except TypeError as error:
        taken = f"must be a class that takes no arguments ({error})"
        raise InputError(f"{key}.activation={model.activation}: {taken}") from error
    norm = NORMS.resolve(model.norm, f"{key}.norm")
    if norm is None:
        return replace(model, norm_options={})
    checked = validated(norm, model.norm_options, f"{key}.norm_options")
    return replace(model, norm_options={name: getattr(checked, name) for name in declarations(norm)})


@dataclass(frozen=True)
class RunConfig(Run):
    """One run: checked, and with an identity."""

    def __post_init__(self) -> None:
        """Check what the parts of a run can't, each alone.

        Raises:
            InputError: if they don't go together.
        """
        least = self.model.value.least_batch
        if self.train.batch_size < least:
            raise InputError(
                f"train.batch_size={self.train.batch_size}: batch norm needs at least {least} examples in a mini-batch"
            )

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> RunConfig:
        """Parse the settings that Hydra composed, or that a grid made of them.

        Raises:
            InputError: naming the key, its value and what is allowed.
        """
        check_run_keys(settings)
        parts: dict[str, Any] = {}
        for key in RUN_KEYS:
            parts |= parse_part(settings, key)
        return cls(**parts)

    def to_dict(self) -> dict[str, Any]:
        """Return all that makes the run what it is, in the layout of the settings."""
        return describe(self, defaults=True)

    def has(self, path: Keys, *, null: bool) -> bool:
        """Tell whether the run has a setting: one that is not left aside as null, unless it was given as ``null``."""
        value = find(self.to_dict(), path)
        choice = getattr(self, path[0], None)
        if value is ABSENT and isinstance(choice, Choice):  # what says where data are makes no other run
            value = find(vars(choice.value), path[1:])
        return value is not ABSENT and (null or value is not None)

    @functools.cached_property
    def run_id(self) -> str:
        """Return the digest of the settings not at their dataclass's default: equal for equal runs, however spelled."""
        return digest(self._identity(per_run=True))

    @functools.cached_property
    def group_id(self) -> str:
        """Return a digest equal for runs that can train in lock-step: they differ in ``per_run`` settings only."""
        return digest(self._identity(per_run=False))

    def _identity(self, *, per_run: bool) -> str:
        """Write ``to_json(describe(self, defaults=False, per_run=per_run))``, from texts of parts that runs share."""
        texts: dict[str, str] = {}
        for f in FIELDS:
            value = getattr(self, f.name)
            if (f.setting.per_run and not per_run) or value == f.default:
                continue
            text = _text(value, per_run)
            # An inner setting comes after the group that it stands in.
            texts[f.top] = to_json(json.loads(texts[f.top]) | {f.below: value}) if f.below else text
        return "{" + ", ".join(f'"{key}": {text}' for key, text in sorted(texts.items())) + "}"

    @property
    def code(self) -> str:
        """Return the digest of the source of all that computes the run: other code may compute another result."""
        chosen = (getattr(self, f.name) for f in FIELDS)
        paths = frozenset[str]().union(*(choice.paths for choice in chosen if isinstance(choice, Choice)))
        engine = {f"{__package__}.compiled"} if self.train.engine == "compiled" else set()
        return code_digest(paths | engine | {name for name in self.diagnostics if "." in name})


def _text(value: object, per_run: bool) -> str:
    if isinstance(value, Choice):
        return value.identity if per_run else value.shared
    return _text_of_training(value) if isinstance(value, Training) else to_json(value)


@functools.cache
def _text_of_training(training: Training) -> str:
    return to_json(describe(training, defaults=False))


def check_run_keys(settings: Mapping[str, Any]) -> None:
    """Refuse settings that no run has.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    _check_keys(settings, RUN_KEYS, "")


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The place where runs are computed; it changes no result."""

    group_size: Count | None
    """The number of runs trained in lock-step; None for as many as pays."""


@dataclass(frozen=True, kw_only=True)
class Inline(Compute):
    """The training of runs in this process: ``compute=inline``."""


@dataclass(frozen=True, kw_only=True)
class Parallel(Compute):
    """The training of runs in several processes at once."""

    n_jobs: Annotated[int, Field(strict=True)]
    """The number of processes; -1 for one per core, or per thread of the cluster's workers."""

    def __post_init__(self) -> None:
        """Check that the number of processes is not 0."""
        if self.n_jobs == 0:
            raise ValueError("n_jobs=0: must be a number of worker processes, or -1 for one per core")


@dataclass(frozen=True, kw_only=True)
class Local(Parallel):
    """The training of runs in processes of this machine: ``compute=local``."""


@dataclass(frozen=True, kw_only=True)
class Dask(Parallel):
    """The training of runs on a Dask cluster: ``compute=dask``."""

    scheduler: str | None
    """The address of the cluster's scheduler; None for a cluster that is started here and ends with the sweep."""


COMPUTES: Mapping[str, type[Compute]] = {"local": Local, "dask": Dask, "inline": Inline}


@dataclass(frozen=True)
class Verify:
    """The question whether what is stored is what training gives."""

    sweep: str | None
    """The name of the sweep to verify; None if that is not the question."""
    sample: Count
    """The number of stored runs that are trained again."""


@dataclass(frozen=True)
class Reference:
    """The question which reference data are made."""

    sweeps: Annotated[list[str], Field(min_length=1)] | None
    """The names of their sweeps, or ``all``; None if that is not the question."""
    root: Annotated[str, Field(min_length=1)] | None
    """A folder with the files of data sets, or with a folder for each by its name; None to download them."""


@dataclass(frozen=True)
class Runs:
    """The question what becomes of stored runs."""

    store: Annotated[str, Field(min_length=1)] | None
    """The name of the sweep whose runs they are; ``all`` for a list of the stores, None if that is not the question."""
    where: list[str]
    """The settings, and other columns of table ``runs``, that they must have, as KEY=VALUE."""
    compare: list[str]
    """The ids of two runs; none if that is not the question."""
    delete: Literal["failed", "stale", "selected"] | None
    merge: Annotated[str, Field(min_length=1)] | None
    """The file or folder of another store."""
    export: str | None
    """The file that gets a table."""
    table: Literal["runs", "curves", "layers", "units"]
    yes: bool
    """Whether to do without a question what can't be undone."""

    def __post_init__(self) -> None:
        """Check what goes together.

        Raises:
            ValueError: naming the key, its value and what is allowed.
        """
        if self.delete == "selected" and not self.where:
            raise ValueError("delete=selected: only with runs.where=KEY=VALUE, which selects")


@dataclass(frozen=True, kw_only=True)
class Refine:
    """The refinement of a sweep's grid where runs begin to reach, or to miss, an accuracy (:mod:`bnrepro.refining`)."""

    key: str | None
    """The setting of which values are added to those of the grid; None for no refinement."""
    levels: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    """The final test accuracies that runs reach or miss; one that diverged misses all."""
    ratio: Annotated[float, Field(ge=1.01, allow_inf_nan=False)]
    """The ratio of neighbouring values, of which one reaches a level and the other does not, at most."""
    widest: Annotated[float, Field(ge=1, le=1e6)]
    """The ratio by which values may go beyond the ends of the grid, as long as a level is reached there."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The way in which figures are drawn; it changes no number."""

    width: Annotated[float, Field(gt=0.5, le=100, allow_inf_nan=False)] | None
    """The width of every figure in inches, which scales all but the text; None for each its own."""
    style: Annotated[str, Field(min_length=1)] | None
    """A matplotlib style sheet, by name or path, that changes the project's look; None for that alone."""
    formats: Annotated[list[Literal["png", "svg", "pdf"]], Field(min_length=1)]


@dataclass(frozen=True)
class Settings:
    """Everything that a command says: the base run, the grids around it, and where to compute and keep it."""

    run: Mapping[str, Any]
    """The settings of a run as composed; a grid changes them before they are parsed."""
    grids: Sequence[Mapping[str, Any]]
    """The grids of a sweep; none for a single run."""
    dry_run: bool
    """Whether to say what a sweep would do, and do nothing."""
    force: bool
    """Whether stored runs are trained again."""
    show: bool | Literal["reference"]
    """Whether to show what is stored of a sweep, or its reference data, and train nothing."""
    redraw: float | None
    """The seconds after which what is stored is shown again while the sweep goes on; None for not before it ends."""
    refine: Refine
    figures: Figures
    verify: Verify
    results_dir: Path
    compute: Compute
    benchmark: Literal["full", "quick"] | None
    """The extent of the benchmark; None unless that is the command."""
    claims: bool
    """Whether to list the paper's claims, and train nothing."""
    report: bool
    """Whether to make a page of all reference data, and train nothing."""
    reference: Reference
    runs: Runs
    note: str | None
    """The words that are stored with the runs that are trained."""
    help: str | None
    """The name that is to be explained, or ``all``; None if that is not the question."""

    @classmethod
    def parse(cls, composed: Mapping[str, Any]) -> Settings:
        """Parse everything that Hydra composed.

        Raises:
            InputError: naming the key, its value and what is allowed.
        """
        _check_keys(composed, (*RUN_KEYS, *AROUND), "")
        sweep = validated(_Sweep, composed.get("sweep"), "sweep")
        return cls(
            run={key: value for key, value in composed.items() if key in RUN_KEYS},
            grids=sweep.grids() if "grid" in composed["sweep"] else (),
            dry_run=sweep.dry_run,
            force=sweep.force,
            show=sweep.show,
            redraw=sweep.redraw,
            refine=sweep.refine,
            figures=validated(Figures, composed.get("figures"), "figures"),
            verify=validated(Verify, composed.get("verify"), "verify"),
            results_dir=_folder(_outer(composed, "results_dir", Annotated[str, Field(min_length=1)])),
            compute=_compute(composed.get("compute")),
            benchmark=_outer(composed, "benchmark", Literal["full", "quick"] | None),
            claims=_outer(composed, "claims", bool),
            report=_outer(composed, "report", bool),
            reference=validated(Reference, composed.get("reference"), "reference"),
            runs=validated(Runs, composed.get("runs"), "runs"),
            note=sweep.note,
            help=_outer(composed, "help", str | None),
        )

    @property
    def commands(self) -> list[str]:
        """Return the commands, beside training and sweeps, that these settings give, as overrides."""
        given = {
            "help": self.help,
            "runs.store": self.runs.store,
            "reference.sweeps": self.reference.sweeps,
            "claims": self.claims or None,
            "report": self.report or None,
            "benchmark": self.benchmark,
            "verify.sweep": self.verify.sweep,
        }
        return [f"{key}={to_override(value)}" for key, value in given.items() if value is not None]


def _outer(composed: Mapping[str, Any], key: str, kind: Any) -> Any:
    if key not in composed:
        raise InputError(f"{key}: missing")
    return validated_value(kind, composed[key], key)


def _compute(options: object) -> Compute:
    """Return the place to compute that the settings name."""
    if not isinstance(options, Mapping):
        raise InputError(f"compute={to_override(options)}: must be a group of settings")
    name = str(options.get("name"))
    if name not in COMPUTES:
        raise InputError(f"compute.name={to_override(options.get('name'))}: must be one of {', '.join(COMPUTES)}")
    return validated(COMPUTES[name], {key: value for key, value in options.items() if key != "name"}, "compute")


def _folder(path: str) -> Path:
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", path):
        raise InputError(f"results_dir={path}: must be a folder, not an address")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~user without a home
        raise InputError(f"results_dir={path}: must be a folder ({error})") from error


@dataclass(frozen=True)
class _Sweep:
    dry_run: bool
    force: bool
    show: bool | Literal["reference"]
    redraw: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    note: Annotated[str, Field(min_length=1)] | None
    refine: Refine
    grid: dict[str, Any] = field(default_factory=dict)
    """The values of settings that are combined; without it there is no sweep."""
    more: list[dict[str, Any]] = field(default_factory=list)
    """Changes to the grid, each of which makes another grid of its own."""

    def grids(self) -> list[dict[str, Any]]:
        return [self.grid, *(_merge(self.grid, changes) for changes in self.more)]


def _merge(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
