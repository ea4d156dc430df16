"""Turn the settings of runs into their training: with all that it imports, whatever can change a number.

The digest of the code that is stored with a result is that of this module's import closure within the project
(:func:`bnrepro.provenance.code_digest`). So what can't change a number, such as a download, a check of what the user
gave, a table or a plot, stays out of it.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import threadpoolctl
from pydantic import Field

from .batchnorm import BatchNorm
from .data import Dataset, Source
from .diagnostics import DIAGNOSTICS
from .layers import Initializer, Nonlinearity, Norm, Normal, ReLU, Sigmoid, Tanh, he, require, xavier
from .measuring import ALWAYS, Diagnostic
from .network import Network, Placement, cnn, has_bias, inception, mlp
from .optim import OPTIMIZERS as OPTIMIZER_CLASSES
from .optim import SCHEDULES as SCHEDULE_CLASSES
from .optim import LearningRateSchedule, Optimizer
from .settings import Choice, Setting, Table
from .training import Diverged, Event, Measurement, Schedule, Specification, engine_of, train

ACTIVATIONS: Table[type[Nonlinearity]] = Table(
    {"sigmoid": Sigmoid, "relu": ReLU, "tanh": Tanh}, base=Nonlinearity, has_settings=False
)
NORMS: Table[type[Norm] | None] = Table({"none": None, "batch": BatchNorm}, base=Norm)
INITIALIZERS: Table[Initializer] = Table({"normal": Normal(1.0), "xavier": xavier, "he": he})
OPTIMIZERS = Table(OPTIMIZER_CLASSES, base=Optimizer)
SCHEDULES = Table(SCHEDULE_CLASSES, base=LearningRateSchedule)
MEASURES = Table(DIAGNOSTICS, instance=Diagnostic)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
Count = Annotated[int, Field(gt=0, strict=True)]


@dataclass(frozen=True)
class Init:
    """The scheme by which weights are drawn; ``std`` is that of scheme ``normal``, and None with the others."""

    scheme: Annotated[str, Setting(names=True)]
    std: Positive | None

    def __post_init__(self) -> None:
        """Check that the scheme is known, and that ``normal`` has a standard deviation."""
        INITIALIZERS.resolve(self.scheme, "scheme")
        if self.scheme != "normal":
            object.__setattr__(self, "std", None)
        elif self.std is None:
            raise ValueError("std=null: scheme normal needs one above 0")

    def build(self) -> Initializer:
        """Return the function that draws the weights."""
        return INITIALIZERS.resolve(self.scheme, "scheme") if self.std is None else Normal(self.std)


class Architecture(Protocol):
    """A builder of networks; a dataclass whose fields are settings."""

    @abstractmethod
    def build(self, classes: int) -> Network:
        """Return the network of one run, with one logit per class."""
        ...

    @property
    def least_batch(self) -> int:
        """Return how many examples a training mini-batch must have."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Model(Architecture):
    """Base of the project's own architectures: the settings that all of them are built from."""

    activation: Annotated[str, Setting(names=True, column="activation")]
    norm: Annotated[str, Setting(names=True, column="norm")]
    norm_options: Annotated[dict[str, Any], Setting(described_by="normalization")]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    init: Annotated[Init, Setting(per_run=True)]
    placement: Placement = "before"
    bias: bool | None = None
    """Whether hidden layers have a bias b; None: unless a norm, whose β takes its place, follows at once."""

    def __post_init__(self) -> None:
        """Check that activation and norm are known; give placement and bias the one spelling that a network has."""
        ACTIVATIONS.resolve(self.activation, "activation")
        norm = NORMS.resolve(self.norm, "norm")
        if norm is None:
            object.__setattr__(self, "placement", "before")
        if self.bias == has_bias(norm, self.placement):
            object.__setattr__(self, "bias", None)

    @functools.cached_property
    def normalization(self) -> Norm | None:
        """Return the norm, with its options; layers have no state, so one serves all places."""
        norm = NORMS.resolve(self.norm, "norm")
        return norm(**self.norm_options) if norm else None

    def parts(
        self,
    ) -> tuple[Initializer, Callable[[], Nonlinearity], Callable[[], Norm] | None, float, Placement, bool | None]:
        """Return initializer, nonlinearity, norm, dropout, placement and bias, as builders of networks take them."""
        norm = self.normalization
        nonlinearity = ACTIVATIONS.resolve(self.activation, "activation")
        norms = (lambda: norm) if norm else None
        return self.init.build(), nonlinearity, norms, self.dropout, self.placement, self.bias


@dataclass(frozen=True, kw_only=True)
class MLP(Model):
    """A fully connected network: ``model=mlp``."""

    hidden: Annotated[list[Count], Field(min_length=1)]

    def build(self, classes: int) -> Network:
        """Return the network of one run, with one logit per class."""
        return mlp(self.hidden, classes, *self.parts())

    @property
    def least_batch(self) -> int:
        """Return how many examples a training mini-batch must have: a feature has one value in each."""
        return self.normalization.least_values if self.normalization else 1


@dataclass(frozen=True, kw_only=True)
class CNN(Model):
    """A convolutional network: ``model=cnn``."""

    channels: Annotated[list[Count], Field(min_length=1)]
    kernel: Count

    def __post_init__(self) -> None:
        """Check the names, and that the kernel is odd."""
        super().__post_init__()
        require(self.kernel % 2 == 1, f"kernel={self.kernel}", "odd, so that images keep their size")

    def build(self, classes: int) -> Network:
        """Return the network of one run, with one logit per class."""
        return cnn(self.channels, self.kernel, classes, *self.parts())


Width = Annotated[int, Field(ge=0, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Inception(Model):
    """A small Inception: ``model=inception``; :func:`bnrepro.network.inception` says what its widths are of."""

    stem: Count
    modules: Annotated[list[list[Width]], Field(min_length=1)]

    def __post_init__(self) -> None:
        """Check the names, and that each module has its six widths."""
        super().__post_init__()
        for widths in self.modules:
            require(
                len(widths) == 6 and all(widths[1:5]) and (widths[0] > 0) == (widths[5] > 0),
                f"modules={self.modules}",
                f"lists of six widths above 0, of which the first and the last may both be 0, not {widths}",
            )

    def build(self, classes: int) -> Network:
        """Return the network of one run, with one logit per class."""
        return inception(self.stem, self.modules, classes, *self.parts())


MODELS: Table[type[Architecture]] = Table({"mlp": MLP, "cnn": CNN, "inception": Inception}, base=Architecture)


@dataclass(frozen=True)
class Training(Schedule):
    """The settings of how long a run trains, in which arithmetic, and what is measured on the way."""

    steps: Annotated[Count, Setting(column="steps")]
    batch_size: Count
    measurements: Annotated[Count, Field(le=1_000_000)]  # whose rows are in memory until a group has ended
    probe_examples: Annotated[int, Field(gt=1, strict=True)]
    eval_examples: Count
    dtype: Literal["float32", "float64"]
    engine: Literal["numpy", "compiled"] = "numpy"


@dataclass(frozen=True)
class Run:
    """Every setting that a run has."""

    dataset: Annotated[Choice[Source], Setting(column="dataset")]
    model: Choice[Architecture]
    optimizer: Choice[Optimizer]
    lr: Annotated[Positive, Setting(key="optimizer.lr", per_run=True, column="lr")]
    lr_schedule: Choice[LearningRateSchedule]
    train: Training
    diagnostics: Annotated[list[str], Setting(names=True)]
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True), Setting(per_run=True, column="seed")]
    """The seed of weights and mini-batches; below 2^63, which is what SQLite can hold."""

    def measured(self) -> dict[str, Diagnostic]:
        """Return the diagnostics, by their names."""
        return {name: MEASURES.resolve(name, "diagnostics") for name in self.diagnostics}


def specification(runs: Sequence[Run], data: Dataset) -> Specification:
    """Return what the training loop needs to know of runs that can be trained in lock-step."""
    first = runs[0]
    return Specification(
        networks=[run.model.value.build(data.classes) for run in runs],
        optimizer=first.optimizer.value,
        learning_rates=[run.lr for run in runs],
        seeds=[run.seed for run in runs],
        schedule=first.train,
        lr_schedule=first.lr_schedule.value,
        diagnostics=first.measured(),
        dtype=np.dtype(first.train.dtype),
        engine=first.train.engine,
    )


def check_engine(run: Run, data: Dataset) -> None:
    """Refuse a run that its engine can't train.

    Raises:
        InputError: naming the setting, and what is allowed; or if what the engine needs is not installed.
    """
    if run.train.engine != "numpy":  # which takes all, and what is a user's own is not built before workers do
        spec = specification([run], data)
        engine_of(spec).check(spec, data)


Row = dict[str, float]
Status = Literal["done", "diverged", "failed"]


@dataclass(kw_only=True)
class Outcome:
    """The end of one run; the rows of what was measured have the columns of the tables that store them."""

    status: Status = "done"
    test_accuracy: float | None = None
    """The accuracy on the whole test set after the last step; None unless done."""
    validation_accuracy: float | None = None
    """The accuracy on the images held out from training, likewise; None if there are none."""
    diverged_at: int | None = None
    """The number of updates done before the loss left the finite range."""
    curves: list[Row] = field(default_factory=list)
    layers: list[Row] = field(default_factory=list)
    units: list[Row] = field(default_factory=list)
    predictions: list[dict[str, bytes]] = field(default_factory=list)
    """The probabilities of the classes of all test examples, and their labels, in one row; none if not asked for."""


def events(runs: Sequence[Run], data: Dataset) -> Iterator[Event]:
    """Train runs in lock-step and yield what happens to them."""
    return train(specification(runs, data), data)


def train_runs(
    runs: Sequence[Run],
    data: Dataset,
    outcomes: Sequence[Outcome],
    watch: Callable[[Measurement], object] | None = None,
) -> None:
    """Train runs in lock-step, with one BLAS thread, on whose number the bits of a product depend.

    Args:
        runs: that can be trained in lock-step.
        data: their data set.
        outcomes: one for each run, which are filled as training goes on; what raises leaves them as they are by then.
        watch: is called with each measurement.
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for event in events(runs, data):
            if isinstance(event, Measurement):
                _record(event, outcomes)
                if watch:
                    watch(event)
            elif isinstance(event, Diverged):
                for r in event.runs:
                    outcomes[r].status, outcomes[r].diverged_at = "diverged", event.step
            else:
                for i, r in enumerate(event.runs):
                    outcomes[r].test_accuracy = float(event.test_accuracy[i])
                    if event.validation_accuracy is not None:
                        outcomes[r].validation_accuracy = float(event.validation_accuracy[i])
                    if event.predictions is not None:
                        row = {"probabilities": event.predictions[i].tobytes(), "labels": data.test_labels.tobytes()}
                        outcomes[r].predictions = [row]


def _record(measured: Measurement, outcomes: Sequence[Outcome]) -> None:
    always = {column.name: getattr(measured, column.name) for column in ALWAYS}
    for i, r in enumerate(measured.runs):
        curve = {name: float(values[i]) for name, values in (always | measured.curve).items()}
        outcomes[r].curves.append({"step": measured.step} | curve)
        for number, layer in enumerate(measured.layers, start=1):
            row = {name: float(values[i]) for name, values in layer.items()}
            outcomes[r].layers.append({"step": measured.step, "layer": number} | row)
        if measured.units:
            columns = {name: values[i].tolist() for name, values in measured.units.items()}
            for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
                unit = dict(zip(columns, values, strict=True))
                outcomes[r].units.append({"step": measured.step, "unit": number} | unit)
