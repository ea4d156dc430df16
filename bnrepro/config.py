"""What one run is: typed and checked, with an identity; and from names to the things they name.

Hydra composes ``conf/``, which holds every default; here stand the types and the checks.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from .batchnorm import BatchNorm
from .data import DATASETS
from .diagnostics import DIAGNOSTICS, Diagnostic
from .errors import InputError
from .layers import Initializer, Normal, ReLU, Sigmoid, Tanh, he, require, xavier
from .network import Network, cnn, mlp
from .optim import OPTIMIZERS, SCHEDULES
from .train import Schedule

Table = Mapping[str, Any]
ACTIVATIONS: Table = {"sigmoid": Sigmoid, "relu": ReLU, "tanh": Tanh}
NORMS: Table = {"none": None, "batch": BatchNorm}
INITIALIZERS: Table = {"normal": Normal, "xavier": xavier, "he": he}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]
T = TypeVar("T")


def find(table: Table, name: Any, key: str) -> Any:
    """What ``name`` stands for: an entry of ``table``, or anything by its import path.

    Raises:
        InputError: naming the key, the name and the names that are allowed.
    """
    name = spell(name)
    if name in table:
        return table[name]
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError):
        raise InputError(
            f"{key}={name}: must be one of {', '.join(table)}, or an import path like package.module.Class"
        ) from None


def find_dataclass(table: Table, name: Any, key: str) -> Any:
    """The same where it must be a dataclass, whose fields are settings."""
    found = find(table, name, key)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise InputError(f"{key}={name}: must be a dataclass, whose fields are the settings")
    return found


@functools.cache
def _adapter(cls: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, cls))


def typed(cls: type[T], options: Any, key: str) -> T:
    """``options`` as an instance of the dataclass ``cls``, converted and checked.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"{key}={spell(options)}: must be a group of settings")
    _check_fields(options, cls, key)
    try:
        return _adapter(cast(Hashable, cls)).validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = _join(key, *map(str, first["loc"]))
        if first["type"] == "missing":
            raise InputError(f"{where}: missing") from error
        if first["type"] == "value_error":  # raised by the class itself, which names the value
            raise InputError(_join(where, first["msg"].removeprefix("Value error, "))) from error
        allowed = re.sub(r"^\w+ should |(,| after) (unable|got|validation).*", "", first["msg"])
        raise InputError(f"{where}={spell(first['input'])}: must {allowed}") from error


def _check_fields(options: Mapping[str, Any], cls: Any, key: str) -> None:
    _check_keys(options, [f.name for f in fields(cls)], key)
    types = get_type_hints(cls)
    for name, value in options.items():
        if is_dataclass(types[name]) and isinstance(value, Mapping):
            _check_fields(value, types[name], _join(key, name))


def _check_keys(options: Mapping[str, Any], known: Sequence[str], key: str) -> None:
    for name, value in options.items():
        if name not in known:
            raise InputError(f"{_join(key, name)}={spell(value)}: no such key; known are {', '.join(known)}")


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _only(options: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: options[key] for key in keys if key in options}


def spell(value: Any) -> str:
    """``value`` as a command line has it: null, true, [1, 2]."""
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, default=str)
    return str(value)


@dataclass(frozen=True)
class Init:
    """How weights are drawn; ``std`` is that of scheme ``normal``, and None with the others."""

    scheme: str
    std: Positive | None

    def __post_init__(self) -> None:
        """Check the name."""
        find(INITIALIZERS, self.scheme, "scheme")
        if self.scheme != "normal":
            object.__setattr__(self, "std", None)
        elif self.std is None:
            raise ValueError("std=null: scheme normal needs one above 0")

    def build(self) -> Initializer:
        """The function that draws."""
        scheme = find(INITIALIZERS, self.scheme, "scheme")
        return scheme if self.std is None else scheme(self.std)


@dataclass(frozen=True, kw_only=True)
class Model:
    """What all models are built from."""

    activation: str
    norm: str
    norm_options: dict[str, Any]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    init: Init

    def __post_init__(self) -> None:
        """Check the names, and fill in the norm's own defaults, which are part of what a run is."""
        find(ACTIVATIONS, self.activation, "activation")
        filled = {}
        if self.norm != "none":
            filled = asdict(typed(find_dataclass(NORMS, self.norm, "norm"), self.norm_options, "norm_options"))
        object.__setattr__(self, "norm_options", filled)

    @property
    def normalises_mini_batches(self) -> bool:
        """Whether the norm is batch norm, or derived from it."""
        norm = find(NORMS, self.norm, "norm")
        return norm is not None and issubclass(norm, BatchNorm)

    def parts(self) -> tuple[Initializer, Any, Any, float]:
        """Initializer, nonlinearity, norm and dropout, as the builders of networks take them."""
        norm = find(NORMS, self.norm, "norm")
        return (
            self.init.build(),
            find(ACTIVATIONS, self.activation, "activation"),
            functools.partial(norm, **self.norm_options) if norm else None,
            self.dropout,
        )


@dataclass(frozen=True, kw_only=True)
class MLP(Model):
    """Fully connected: ``model=mlp``."""

    hidden: Annotated[list[Count], Field(min_length=1)]

    def build(self, classes: int) -> Network:
        """The network of one run."""
        return mlp(self.hidden, classes, *self.parts())


@dataclass(frozen=True, kw_only=True)
class CNN(Model):
    """Convolutional: ``model=cnn``."""

    channels: Annotated[list[Count], Field(min_length=1)]
    kernel: Count

    def __post_init__(self) -> None:
        """Check the kernel too."""
        super().__post_init__()
        require(self.kernel % 2 == 1, f"kernel={self.kernel}", "odd, so that images keep their size")

    def build(self, classes: int) -> Network:
        """The network of one run."""
        return cnn(self.channels, self.kernel, classes, *self.parts())


MODELS: Table = {"mlp": MLP, "cnn": CNN}


@dataclass(frozen=True)
class Train(Schedule):
    """How long a run trains, in which arithmetic, and what is measured on the way."""

    steps: Count
    batch_size: Count
    measurements: Count
    probe_examples: Annotated[int, Field(gt=1, strict=True)]
    eval_examples: Count
    dtype: Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where runs are computed; changes no result."""

    group_size: Count | None
    """How many runs are trained in lock-step; None for as many as pays."""


@dataclass(frozen=True, kw_only=True)
class Inline(Compute):
    """In this process: ``compute=inline``."""


@dataclass(frozen=True, kw_only=True)
class Parallel(Compute):
    """In several processes at once."""

    n_jobs: Annotated[int, Field(strict=True)]
    """How many; -1 for one per core, or per thread of the cluster's workers."""

    def __post_init__(self) -> None:
        """Check the range."""
        if self.n_jobs == 0:
            raise ValueError("n_jobs=0: must be a number of worker processes, or -1 for one per core")


@dataclass(frozen=True, kw_only=True)
class Local(Parallel):
    """In processes of this machine: ``compute=local``."""


@dataclass(frozen=True, kw_only=True)
class Dask(Parallel):
    """On a Dask cluster: ``compute=dask``."""

    scheduler: str | None
    """Address of its scheduler; None for a cluster that is started here and ends with the sweep."""


COMPUTES: Mapping[str, type[Compute]] = {"local": Local, "dask": Dask, "inline": Inline}


@dataclass(frozen=True, eq=False)
class Named:
    """A choice by name, and what it stands for. Equal, and hashed, by what matters to a result."""

    name: str
    value: Any

    @classmethod
    def parse(cls, table: Table, options: Any, key: str) -> Named:
        """From a group of settings with a ``name``; the rest are the fields of the dataclass so named."""
        if not isinstance(options, Mapping) or "name" not in options:
            raise InputError(f"{key}={spell(options)}: must be a group of settings with a name")
        chosen = find_dataclass(table, options["name"], f"{key}.name")
        own_name = any(f.name == "name" for f in fields(chosen))
        rest = {k: v for k, v in options.items() if k != "name" or own_name}
        return cls(options["name"], typed(chosen, rest, key))

    def identity(self) -> dict[str, Any]:
        """What matters to a result: the fields that take part in comparison."""
        compared = {f.name for f in fields(self.value) if f.compare}
        return {"name": self.name} | {k: v for k, v in asdict(self.value).items() if k in compared}

    @functools.cached_property
    def text(self) -> str:
        """The identity as JSON."""
        return _json(self.identity())

    @functools.cached_property
    def text_without_init(self) -> str:
        """The same of a model, but for how its weights are drawn."""
        return _json({key: value for key, value in self.identity().items() if key != "init"})

    def __eq__(self, other: object) -> bool:
        """Whether a result would be the same."""
        return isinstance(other, Named) and self.text == other.text

    def __hash__(self) -> int:
        """Of the identity."""
        return hash(self.text)


TABLES = {"dataset": DATASETS, "model": MODELS, "optimizer": OPTIMIZERS, "lr_schedule": SCHEDULES}
RUN_KEYS = (*TABLES, "train", "diagnostics", "seed")
"""What a run is made of; the learning rate stands with the optimiser's settings."""


def parse_part(settings: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The fields of a run that ``settings[key]`` stands for, where ``key`` is one of ``RUN_KEYS``.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    options = settings.get(key)
    if key == "optimizer":  # the learning rate is a run's own, the rest its optimiser's
        rest = {k: v for k, v in options.items() if k != "lr"} if isinstance(options, Mapping) else options
        return {key: Named.parse(OPTIMIZERS, rest, key), "lr": typed(_Rate, _only(settings[key], "lr"), key).lr}
    if key in TABLES:
        return {key: Named.parse(TABLES[key], options, key)}
    if key == "train":
        return {key: typed(Train, options, key)}
    return {key: getattr(typed(_Diagnostics if key == "diagnostics" else _Seed, _only(settings, key), ""), key)}


@dataclass(frozen=True)
class RunConfig:
    """One run: a data set, a model, an optimiser, a learning rate, a schedule and a seed."""

    dataset: Named
    model: Named
    optimizer: Named
    lr: float
    lr_schedule: Named
    train: Train
    diagnostics: list[str]
    seed: int

    def __post_init__(self) -> None:
        """Check what its parts can't.

        Raises:
            InputError: if they don't go together.
        """
        model = self.model.value
        if self.train.batch_size == 1 and isinstance(model, MLP) and model.normalises_mini_batches:
            raise InputError("train.batch_size=1: batch norm needs at least 2 examples in a mini-batch")

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> RunConfig:
        """From the settings that Hydra composed, or that a grid made of them.

        Raises:
            InputError: naming the key, its value and what is allowed.
        """
        check_run_keys(settings)
        parts: dict[str, Any] = {}
        for key in RUN_KEYS:
            parts |= parse_part(settings, key)
        return cls(**parts)

    def diagnostic_functions(self) -> list[Diagnostic]:
        """What is measured besides the curve."""
        return [find(DIAGNOSTICS, name, "diagnostics") for name in self.diagnostics]

    def to_dict(self) -> dict[str, Any]:
        """All that makes the run what it is, in the layout of the settings."""
        optimizer = self.optimizer.identity()
        return {
            "dataset": self.dataset.identity(),
            "model": self.model.identity(),
            "optimizer": {"name": optimizer.pop("name"), "lr": self.lr} | optimizer,
            "lr_schedule": self.lr_schedule.identity(),
            "train": asdict(self.train),
            "diagnostics": self.diagnostics,
            "seed": self.seed,
        }

    @functools.cached_property
    def run_id(self) -> str:
        """Digest of :meth:`to_dict`: equal for equal runs, whatever the spelling of their settings.

        The JSON is put together from the texts of parts that many runs share.
        """
        texts = {
            "dataset": self.dataset.text,
            "diagnostics": _json(self.diagnostics),
            "lr_schedule": self.lr_schedule.text,
            "model": self.model.text,
            "optimizer": _json(self.optimizer.identity() | {"lr": self.lr}),
            "seed": _json(self.seed),
            "train": _text(self.train),
        }
        return _digest("{" + ", ".join(f'"{key}": {text}' for key, text in texts.items()) + "}")

    @property
    def group_id(self) -> str:
        """Equal for runs that can be trained in lock-step: they differ in seed, learning rate and weight scale only."""
        shared = self.dataset.text, self.model.text_without_init, self.optimizer.text, self.lr_schedule.text
        return _digest_of_all(*shared, _text(self.train), *self.diagnostics)

    @property
    def code(self) -> str:
        """Digest of the source of all that computes the run: other code may compute another result."""
        names = [self.dataset.name, self.model.name, self.optimizer.name, self.lr_schedule.name, *self.diagnostics]
        model = self.model.value
        if isinstance(model, Model):
            names += [model.activation, model.norm, model.init.scheme]
        return _digest_of_code(frozenset(name for name in names if "." in name))


def check_run_keys(settings: Mapping[str, Any]) -> None:
    """Refuse settings that no run has.

    Raises:
        InputError: naming the key, its value and what is allowed.
    """
    _check_keys(settings, RUN_KEYS, "")


@dataclass(frozen=True)
class _Rate:
    lr: Positive


@dataclass(frozen=True)
class _Seed:
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)]  # what SQLite can hold


@dataclass(frozen=True)
class _Diagnostics:
    diagnostics: list[str]

    def __post_init__(self) -> None:
        for name in self.diagnostics:
            find(DIAGNOSTICS, name, "diagnostics")
        object.__setattr__(self, "diagnostics", sorted({*self.diagnostics}))


def _json(settings: Any) -> str:
    return json.dumps(settings, sort_keys=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _text(train: Train) -> str:
    return _json(asdict(train))


@functools.cache
def _digest_of_all(*texts: str) -> str:
    return _digest(_json(texts))


NUMERIC_MODULES = ("layers", "batchnorm", "optim", "network", "data", "diagnostics", "train")
"""Those of this package that compute results."""


@functools.cache
def _digest_of_code(names: frozenset[str]) -> str:
    """Of the files of the numeric modules, and of those that define what has been named by import path."""
    modules = {f"{__package__}.{name}" for name in NUMERIC_MODULES}
    for name in names:
        found = find({}, name, "code")
        modules |= {name.rpartition(".")[0]} | {part.__module__ for part in getattr(found, "__mro__", [found])}
    digest = hashlib.sha256()
    for module in sorted(modules):
        file = getattr(sys.modules.get(module), "__file__", None)
        if file and module.partition(".")[0] not in sys.stdlib_module_names:
            digest.update(module.encode() + b"\0" + Path(file).read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Verify:
    """Whether what is stored is what training gives."""

    sweep: str | None
    """Of this sweep; None if that is not the question."""
    sample: Count
    """How many of its runs are trained again."""


@dataclass(frozen=True)
class Settings:
    """Everything that a command says: the base run, the grids around it, and where to compute and keep it."""

    run: Mapping[str, Any]
    """As composed; a grid changes it before it is parsed."""
    grids: Sequence[Mapping[str, Any]]
    """None for a single run."""
    dry_run: bool
    """Say what a sweep would do, and do nothing."""
    force: bool
    """Train stored runs again."""
    show: bool
    """Show what is stored of a sweep, and train nothing."""
    verify: Verify
    results_dir: Path
    compute: Compute
    benchmark: Literal["full", "quick"] | None
    """None unless that is the command."""

    @classmethod
    def parse(cls, composed: Mapping[str, Any]) -> Settings:
        """From what Hydra composed.

        Raises:
            InputError: naming the key, its value and what is allowed.
        """
        _check_keys(composed, (*RUN_KEYS, "compute", "results_dir", "sweep", "verify", "benchmark"), "")
        sweep = typed(_Sweep, composed.get("sweep"), "sweep")
        return cls(
            run={key: value for key, value in composed.items() if key in RUN_KEYS},
            grids=sweep.grids() if "grid" in composed["sweep"] else (),
            dry_run=sweep.dry_run,
            force=sweep.force,
            show=sweep.show,
            verify=typed(Verify, composed.get("verify"), "verify"),
            results_dir=_folder(typed(_Place, _only(composed, "results_dir"), "").results_dir),
            compute=_compute(composed.get("compute")),
            benchmark=typed(_Benchmark, _only(composed, "benchmark"), "").benchmark,
        )


def _compute(options: Any) -> Compute:
    """The place to compute that the settings name."""
    if not isinstance(options, Mapping):
        raise InputError(f"compute={spell(options)}: must be a group of settings")
    name, rest = spell(options.get("name")), {key: value for key, value in options.items() if key != "name"}
    if name not in COMPUTES:
        raise InputError(f"compute.name={name}: must be one of {', '.join(COMPUTES)}")
    return typed(COMPUTES[name], rest, "compute")


def _folder(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~user without a home
        raise InputError(f"results_dir={path}: must be a folder ({error})") from error


@dataclass(frozen=True)
class _Place:
    results_dir: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class _Benchmark:
    benchmark: Literal["full", "quick"] | None


@dataclass(frozen=True)
class _Sweep:
    dry_run: bool
    force: bool
    show: bool
    grid: dict[str, Any] = field(default_factory=dict)
    """Without it there is no sweep."""
    more: list[dict[str, Any]] = field(default_factory=list)
    """Changes to the grid, each of which makes another grid of its own."""

    def grids(self) -> list[dict[str, Any]]:
        return [self.grid, *(_merge(self.grid, changes) for changes in self.more)]


def _merge(old: Any, new: Any) -> Any:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
