"""The training loop: R runs of equal shapes, in lock-step by NumPy, one call doing the work of R, or compiled.

A group is only scheduling. Which runs share it changes no bit of any result: products and reductions are done per
run, each run has its own seeded streams, and a run that diverges leaves the others untouched.
"""

from __future__ import annotations

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from .data import ByteArray, Dataset, IntArray, Order, augmented, evenly, minibatches, training_batches
from .diagnostics import gradient_norm
from .errors import InputError
from .layers import Array, Arrays
from .measuring import Diagnostic, Level, Snapshot, read
from .memory import keep_freed_memory
from .network import Network, select_runs, stack_runs
from .optim import LearningRateSchedule, Optimizer, Params, State

DIVERGED_LOSS = 1e3
"""A run has diverged when its mini-batch loss exceeds this or is not finite (Bjorck et al. 2018)."""


@dataclass(frozen=True)
class Schedule:
    """The length of training, and what is measured on the way.

    Args:
        steps: updates of the parameters.
        batch_size: examples per update.
        measurements: how many evenly spaced measurements to make; log-spaced ones before the first come on top.
        probe_examples: size of the fixed batch of training examples on which the loss, the gradient and the
            pre-activations are measured, with normalisation in training mode.
        eval_examples: test examples on which the accuracy is measured on the way; the final one takes all.
        early_measurements: whether to make the log-spaced ones, whose steps grow by a half each; or the factor by
            which they grow.
        predictions: whether to give the probabilities of the classes of all test examples in the end.
        order: how examples are put into mini-batches, by :func:`bnrepro.data.minibatches`.
    """

    steps: int
    batch_size: int
    measurements: int
    probe_examples: int
    eval_examples: int
    _: KW_ONLY
    early_measurements: (
        Annotated[bool, Field(strict=True)] | Annotated[float, Field(ge=1.001, allow_inf_nan=False, strict=True)]
    ) = True
    predictions: bool = False
    order: Order = "reshuffled"

    @property
    def measured_steps(self) -> list[int]:
        """Return the steps to measure at: 0, growing by a factor up to the even interval, evenly up to the last."""
        interval, early = max(1, self.steps // self.measurements), set[int]()
        if self.early_measurements:
            factor = 1.5 if self.early_measurements is True else self.early_measurements
            early.update(itertools.takewhile(lambda n: n < interval, (int(factor**k) for k in itertools.count())))
        return sorted({0, *early, *range(interval, self.steps, interval), self.steps})


@dataclass(frozen=True, kw_only=True)
class Specification:
    """Everything that the training of R runs in lock-step depends on, besides the data."""

    networks: Sequence[Network]
    """The network of each run, equal but for how the weights are drawn."""
    optimizer: Optimizer
    """The optimiser of all runs."""
    learning_rates: Sequence[float]
    """The learning rate of each run."""
    seeds: Sequence[int]
    """The seed of each run. Equal seeds draw equal weights (scaled) and equal mini-batches."""
    schedule: Schedule
    """How long to train, and what to measure."""
    lr_schedule: LearningRateSchedule
    """The factor on the learning rates after so many updates."""
    diagnostics: Mapping[str, Diagnostic]
    """What is measured besides loss, accuracy and gradient norm, by name; it changes no bit of these."""
    dtype: np.dtype
    """The floating type of all arithmetic."""
    engine: Literal["numpy", "compiled"]
    """What computes: NumPy, or :mod:`bnrepro.compiled`."""


@dataclass(frozen=True)
class Measurement:
    """What is measured after ``step`` updates, on the runs still training (indices ``runs`` into the group)."""

    step: int
    runs: Array
    train_loss: Array
    """The mean cross-entropy (R,) on the probe batch, in nats."""
    test_accuracy: Array
    """The test accuracy (R,) in inference mode."""
    gradient_norm: Array
    """The norm (R,) of the gradient of all parameters together, on the probe batch."""
    curve: dict[str, Array]
    """The columns that the diagnostics found of each run: (R,) by name."""
    layers: list[dict[str, Array]]
    """The columns that the diagnostics found of each layer, from the first: (R,) by name."""
    units: dict[str, Array]
    """The columns that the diagnostics found of each unit of the last hidden layer: (R, D) by name."""


@dataclass(frozen=True)
class Diverged:
    """The loss of some runs left the finite range in the forward pass after ``step`` updates."""

    step: int
    runs: Array


@dataclass(frozen=True)
class Finished:
    """Training has ended for the runs that did not diverge, if there are any."""

    runs: Array
    test_accuracy: Array
    """The accuracy (R,) on the whole test set, in inference mode."""
    validation_accuracy: Array | None
    """The accuracy (R,) on the images held out from training, likewise; None if there are none."""
    predictions: Array | None = None
    """The probabilities (R, N, K) that the classes of all test examples have, in float16, if they are asked for."""


Event = Measurement | Diverged | Finished


@dataclass
class Group:
    """The runs still training, and everything that has a run axis."""

    network: Network
    optimizer: Optimizer
    lr: Array
    seeds: list[int]
    params: Params
    state: Params
    optimizer_state: State
    runs: Array = field(init=False)

    def __post_init__(self) -> None:
        """Give every run its number in the group."""
        self.runs = np.arange(len(self.lr))

    def keep(self, mask: Array) -> None:
        """Drop all runs but these."""
        self.runs, self.lr = self.runs[mask], self.lr[mask]
        self.seeds = [seed for seed, kept in zip(self.seeds, mask, strict=True) if kept]
        self.params, self.state = select_runs(self.params, mask), select_runs(self.state, mask)
        self.optimizer_state = select_runs(self.optimizer_state, mask)


def train(spec: Specification, data: Dataset) -> Iterator[Event]:
    """Train R runs and yield what happens to them.

    Args:
        spec: what is trained, and how.
        data: the images and labels.

    Yields:
        Measurements in order of steps, divergences where they occur, and at last ``Finished``.

    Raises:
        InputError: before the first update, if a diagnostic does not give the columns that it declares.
    """
    keep_freed_memory()
    engine = engine_of(spec)(spec, data)
    inits = []
    for network, seed in zip(spec.networks, spec.seeds, strict=True):
        weight_seed, _ = np.random.SeedSequence(seed).spawn(2)
        inits.append(network.init(np.random.default_rng(weight_seed), data.image_shape))
    params = stack_runs([params for params, _ in inits], spec.dtype)
    with np.errstate(over="ignore"):  # a rate too large for the dtype is infinite, and the run diverges
        lr = np.asarray(spec.learning_rates, float).astype(spec.dtype)
    group = Group(
        network=engine.network,
        optimizer=spec.optimizer,
        lr=lr,
        seeds=list(spec.seeds),
        params=params,
        state=stack_runs([state for _, state in inits], spec.dtype),
        optimizer_state=spec.optimizer.init(params),
    )
    measure = _Probe(spec, data)
    for start, stop in itertools.pairwise(spec.schedule.measured_steps):
        yield measure(group, start)
        yield from engine.advance(group, start, stop)
        if not group.seeds:
            return
    last = measure(group, spec.schedule.steps)
    yield last
    healthy = last.train_loss <= DIVERGED_LOSS  # no mini-batch follows the last update to show it
    if not healthy.all():
        yield Diverged(spec.schedule.steps, group.runs[~healthy])
        group.keep(healthy)
    if group.seeds:
        predictions = measure.predictions(group) if spec.schedule.predictions else None
        yield Finished(group.runs, measure.accuracy(group), measure.validation_accuracy(group), predictions)


class Engine(ABC):
    """What trains the runs of a group between two measurements; and the network that they are measured with."""

    network: Network

    def __init__(self, spec: Specification, data: Dataset) -> None:
        """Begin the streams of mini-batches, one of each seed."""
        self.spec, self.data = spec, data
        self.network = spec.networks[0]
        self.streams, self._augmenting = {}, {}
        size, order = spec.schedule.batch_size, spec.schedule.order
        for seed in spec.seeds:
            _, batch_seed, image_seed = np.random.SeedSequence(seed).spawn(3)
            self.streams[seed] = minibatches(len(data.train_labels), size, batch_seed, order)
            self._augmenting[seed] = np.random.default_rng(image_seed)

    def draw(self, seed: int) -> tuple[IntArray, ByteArray]:
        """Return the next mini-batch of a seed: the indices of its examples, and their images."""
        batch = next(self.streams[seed])
        images = self.data.train_images.take(batch, axis=0)
        if self.data.augmentation:
            images = augmented(images, self.data.augmentation, self._augmenting[seed])
        return batch, images

    @staticmethod
    @abstractmethod
    def check(spec: Specification, data: Dataset) -> None:
        """Refuse what the engine can't train.

        Raises:
            InputError: naming it, and what is allowed.
        """
        ...

    @abstractmethod
    def advance(self, group: Group, start: int, stop: int) -> Iterator[Diverged]:
        """Train from step ``start`` to ``stop``; drop the runs that diverge, and yield them in order of steps."""
        ...


def engine_of(spec: Specification) -> type[Engine]:
    """Return the engine that is asked for.

    Raises:
        InputError: if what it needs is not installed.
    """
    if spec.engine == "numpy":
        return LockStep
    try:
        # Not by an import statement: it is no code of the runs that NumPy trains.
        engine: type[Engine] = importlib.import_module(".compiled", __package__).Compiled
    except ImportError as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"train.engine=compiled: needs Numba, which can't be imported ({told}); "
            "python -m pip install 'bnrepro[fast]' does that"
        ) from error
    return engine


class LockStep(Engine):
    """Trains all runs at once, by NumPy calls that do the work of R."""

    def __init__(self, spec: Specification, data: Dataset) -> None:
        """Make the targets of all examples."""
        super().__init__(spec, data)
        self.one_hot = np.eye(data.classes, dtype=spec.dtype)[data.train_labels]

    @staticmethod
    def check(spec: Specification, data: Dataset) -> None:
        """Refuse nothing."""

    def advance(self, group: Group, start: int, stop: int) -> Iterator[Diverged]:
        """Train step by step."""
        for step in range(start, stop):
            drawn = {seed: self.draw(seed) for seed in dict.fromkeys(group.seeds)}
            diverged = self._step(group, drawn, self.spec.lr_schedule(step))
            if diverged is not None:
                yield Diverged(step, diverged)
                if not group.seeds:
                    return

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def _step(self, group: Group, drawn: dict[int, tuple[IntArray, ByteArray]], lr_factor: float) -> Array | None:
        """Update all runs but those that diverge here, whose indices are returned."""
        # One seed, one mini-batch: it is converted once and broadcast along the run axis.
        of_runs = [drawn[seed] for seed in group.seeds] if len(drawn) > 1 else [*drawn.values()]
        batch, images = (np.stack(arrays) for arrays in zip(*of_runs, strict=True))
        x = self.data.inputs(images, group.lr.dtype)
        logits, state, backward = group.network.forward(group.params, group.state, x, train=True)
        loss, dlogits = group.network.loss(logits, self.one_hot.take(batch, axis=0))
        healthy = loss <= DIVERGED_LOSS  # False for NaN
        lr, scaled = group.lr * lr_factor, group.optimizer.linear
        if scaled:  # R·N·K products in place of one for every weight
            dlogits *= lr[:, np.newaxis, np.newaxis]
        grads, diverged = backward(dlogits), None
        group.state = state
        if not healthy.all():
            diverged = group.runs[~healthy]
            group.keep(healthy)
            grads, lr = select_runs(grads, healthy), lr[healthy]
        if group.seeds:
            group.optimizer.update(group.params, grads, group.optimizer_state, lr, group.network.weights, scaled=scaled)
        return diverged


class _Probe:
    """Measures a group, on examples that are the same for all runs and steps, and touches no stream of theirs."""

    def __init__(self, spec: Specification, data: Dataset) -> None:
        probe = evenly(len(data.train_labels), spec.schedule.probe_examples)
        self.x = data.inputs(data.train_images[None, probe], spec.dtype)
        self.targets = np.eye(data.classes, dtype=spec.dtype)[data.train_labels[None, probe]]
        self.spec, self.data = spec, data
        self.before: tuple[Array, dict[str, Array]] | None = None
        """Runs and taps of the measurement before."""

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def __call__(self, group: Group, step: int) -> Measurement:
        network, taps = group.network, list[Array]()
        logits, _, backward = network.forward(group.params, group.state, self.x, train=True, taps=taps)
        loss, dlogits = network.loss(logits, self.targets)
        grads = backward(dlogits)
        snapshot = Snapshot(
            network=network,
            params=group.params,
            state=group.state,
            optimizer=group.optimizer,
            optimizer_state=group.optimizer_state,
            lr=group.lr * self.spec.lr_schedule(step),
            x=self.x,
            targets=self.targets,
            taps=dict(zip(network.nonlinearities, taps, strict=True)),
            grads=grads,
            before=self._taps_before(group.runs),
            data=self.data,
            batch_size=self.spec.schedule.batch_size,
            evaluated=evenly(len(self.data.test_labels), self.spec.schedule.eval_examples),
            step=step,
        )
        self.before = group.runs, snapshot.taps
        found: dict[Level, Arrays] = {"run": {}, "layer": {}, "unit": {}}
        for name, diagnostic in self.spec.diagnostics.items():
            for column, values in read(name, diagnostic, snapshot):
                found[column.level][column.name] = values
        layers = found["layer"]
        deepest = max((values.shape[1] for values in layers.values()), default=0)
        return Measurement(
            step=step,
            runs=group.runs,
            train_loss=loss,
            test_accuracy=self.accuracy(group, self.spec.schedule.eval_examples),
            gradient_norm=gradient_norm(g for layer in grads.values() for g in layer.values()),
            curve=found["run"],
            layers=[{n: v[:, i] for n, v in layers.items() if i < v.shape[1]} for i in range(deepest)],
            units=found["unit"],
        )

    def _taps_before(self, runs: Array) -> dict[str, Array] | None:
        """Return the taps of the measurement before, of the runs that are left."""
        if self.before is None:
            return None
        runs_before, taps = self.before
        left = np.isin(runs_before, runs)
        return taps if left.all() else {name: tap[left] for name, tap in taps.items()}

    def validation_accuracy(self, group: Group) -> Array | None:
        """Measure the accuracy (R,) on the images held out from training, if there are any."""
        held_out = self.data.validated()
        return None if held_out is None else self.accuracy(group, data=held_out)

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def accuracy(self, group: Group, examples: int | None = None, data: Dataset | None = None) -> Array:
        """Measure the test accuracy (R,), on other data if given."""
        state = self._state(group)
        return evaluate(group.network, group.params, state, data or self.data, examples, self.spec.dtype)

    def _state(self, group: Group) -> Params:
        """Return the state for inference, with population statistics if the network asks for them."""
        batches = training_batches(self.data, self.spec.schedule.batch_size, self.spec.dtype)
        return group.network.with_population_statistics(group.params, group.state, batches)

    def predictions(self, group: Group) -> Array:
        """Return the probabilities (R, N, K) of the classes of all test examples, in float16."""
        data, network, found = self.data, group.network, list[Array]()
        chosen, one_hot = np.arange(len(data.test_labels)), np.eye(data.classes, dtype=self.spec.dtype)
        for chunk, logits in network.predict(group.params, self._state(group), data, chosen, self.spec.dtype):
            targets = one_hot[data.test_labels[None, chunk]]
            _, gradient = network.loss(logits, targets)  # (softmax − targets) / N, in the engine's own arithmetic
            found.append((len(chunk) * gradient + targets).astype(np.float16))
        return np.concatenate(found, axis=1)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def evaluate(
    network: Network,
    params: Params,
    state: Params,
    data: Dataset,
    examples: int | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> Array:
    """Return the test accuracy (R,) in inference mode, on so many evenly spaced test examples, or on all there are."""
    count = len(data.test_labels)
    chosen = evenly(count, examples or count)
    return network.count_correct(params, state, data, chosen, dtype) / len(chosen)
