"""The lock-step training loop: R runs of equal shapes, one NumPy call doing the work of R.

A group is only scheduling. Which runs share it changes no bit of any result: products and reductions are done per
run, each run has its own seeded streams, and a run that diverges leaves the others untouched.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .data import Dataset, minibatches, to_float
from .diagnostics import Diagnostic, Snapshot, correct_predictions, gradient_norm
from .layers import Array, softmax_cross_entropy
from .network import Network, select_runs, stack_runs
from .optim import Optimizer, Params

DIVERGED_LOSS = 1e3
"""A run has diverged when its mini-batch loss exceeds this or is not finite (Bjorck et al. 2018)."""

EVALUATION_CHUNK = 256
"""Test examples per forward pass, so that activations stay in cache."""

POPULATION_BATCHES = 50
"""Training mini-batches behind the population statistics of Algorithm 2, or as many as the data set has."""


@dataclass(frozen=True)
class Schedule:
    """How long to train and what to measure on the way.

    Args:
        steps: updates of the parameters.
        batch_size: examples per update.
        measurements: how many evenly spaced measurements to make; log-spaced ones before the first come on top.
        probe_examples: size of the fixed batch of training examples on which the loss, the gradient and the
            pre-activations are measured, with normalisation in training mode.
        eval_examples: test examples on which the accuracy is measured on the way; the final one takes all.
    """

    steps: int
    batch_size: int
    measurements: int
    probe_examples: int
    eval_examples: int

    @property
    def measured_steps(self) -> list[int]:
        """0, then growing by a half up to the even interval, then evenly up to the last step."""
        interval = max(1, self.steps // self.measurements)
        early = {0} | {n for k in range(64) if (n := int(1.5**k)) < interval}
        return sorted(early | {*range(interval, self.steps, interval), self.steps})


@dataclass(frozen=True)
class Measurement:
    """Measured after ``step`` updates, on the runs that are still training (indices ``runs`` into the group)."""

    step: int
    runs: Array
    train_loss: Array
    """(R,) mean cross-entropy on the probe batch, in nats."""
    test_accuracy: Array
    """(R,) in inference mode."""
    gradient_norm: Array
    """(R,) of all parameters together, on the probe batch."""
    curve: dict[str, Array]
    """What else the diagnostics found of each run: (R,) by name."""
    layers: list[dict[str, Array]]
    """What they found of each layer, from the first: (R,) by name."""
    units: dict[str, Array]
    """What they found of each unit of the last hidden layer: (R, D) by name."""


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
    """(R,) on the whole test set, in inference mode."""


Event = Measurement | Diverged | Finished


@dataclass
class _Group:
    """The runs still training, and everything that has a run axis."""

    network: Network
    optimizer: Optimizer
    lr: Array
    seeds: list[int]
    params: Params
    state: Params
    optimizer_state: Params
    runs: Array = field(init=False)

    def __post_init__(self) -> None:
        self.runs = np.arange(len(self.lr))

    def keep(self, mask: Array) -> None:
        """Drop the other runs."""
        self.runs, self.lr = self.runs[mask], self.lr[mask]
        self.seeds = [seed for seed, kept in zip(self.seeds, mask, strict=True) if kept]
        self.params, self.state = select_runs(self.params, mask), select_runs(self.state, mask)
        self.optimizer_state = select_runs(self.optimizer_state, mask)


def train(
    networks: Sequence[Network],
    optimizer: Optimizer,
    learning_rates: Sequence[float],
    seeds: Sequence[int],
    data: Dataset,
    schedule: Schedule,
    lr_schedule: Callable[[int], float],
    diagnostics: Sequence[Diagnostic],
    dtype: Any = np.float32,
    *,
    on_step: Callable[[int], object] | None = None,
) -> Iterator[Event]:
    """Train R runs in lock-step and yield what happens to them.

    Args:
        networks: one per run, equal but for how the weights are drawn.
        optimizer: of all runs.
        learning_rates: one per run.
        seeds: one per run. Equal seeds draw equal weights (scaled) and equal mini-batches.
        data: the images and labels.
        schedule: how long, and what to measure.
        lr_schedule: what the learning rates are multiplied by after so many updates.
        diagnostics: what to measure besides loss, accuracy and the norm of the gradient. They change no bit of these.
        dtype: of all arithmetic.
        on_step: called with the number of the step, from 0, as each begins: after what is measured before the step,
            and before its mini-batch is drawn. It tells the time to whoever asks, and changes no bit of a result.

    Yields:
        Measurements in order of steps, divergences where they occur, and at last ``Finished``.
    """
    # glibc gives memory back to the system, page by page, above a size that it learns from the largest block freed so
    # far. Taught once, it keeps what every step allocates anew: a third off the time of a step with batch norm.
    np.empty(16 << 20, np.uint8)
    dtype = np.dtype(dtype)
    inits, streams = [], {}
    for network, seed in zip(networks, seeds, strict=True):
        weight_seed, batch_seed = np.random.SeedSequence(seed).spawn(2)
        inits.append(network.init(np.random.default_rng(weight_seed), data.image_shape))
        streams[seed] = minibatches(len(data.train_labels), schedule.batch_size, batch_seed)
    params = stack_runs([params for params, _ in inits], dtype)
    with np.errstate(over="ignore"):  # a rate too large for the dtype is infinite, and the run diverges
        lr = np.asarray(learning_rates, float).astype(dtype)
    group = _Group(
        network=networks[0],
        optimizer=optimizer,
        lr=lr,
        seeds=list(seeds),
        params=params,
        state=stack_runs([state for _, state in inits], dtype),
        optimizer_state=optimizer.init(params),
    )
    measure = _Probe(data, schedule, lr_schedule, diagnostics, dtype)
    one_hot = np.eye(data.classes, dtype=dtype)[data.train_labels]
    measured_steps = set(schedule.measured_steps)

    for step in range(schedule.steps):
        if step in measured_steps:
            yield measure(group, step)
        if on_step is not None:
            on_step(step)
        drawn = {seed: next(stream) for seed, stream in streams.items()}
        diverged = _step(group, data, drawn, one_hot, lr_schedule(step))
        if diverged is not None:
            yield Diverged(step, diverged)
            streams = {seed: streams[seed] for seed in set(group.seeds)}
            if not group.seeds:
                return
    last = measure(group, schedule.steps)
    yield last
    healthy = last.train_loss <= DIVERGED_LOSS  # no mini-batch follows the last update to show it
    if not healthy.all():
        yield Diverged(schedule.steps, group.runs[~healthy])
        group.keep(healthy)
    if group.seeds:
        yield Finished(group.runs, measure.accuracy(group))


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def _step(group: _Group, data: Dataset, drawn: dict[int, Array], one_hot: Array, lr_factor: float) -> Array | None:
    """Update all runs but those that diverge here, whose indices are returned."""
    # One seed, one mini-batch: it is converted once and broadcast along the run axis.
    (batch, *others) = drawn.values()
    batch = np.stack([drawn[seed] for seed in group.seeds]) if others else batch[np.newaxis]
    x = to_float(data.train_images.take(batch, axis=0), data.scale, group.lr.dtype)
    logits, state, backward = group.network.forward(group.params, group.state, x, train=True)
    loss, dlogits = softmax_cross_entropy(logits, one_hot.take(batch, axis=0))
    healthy = loss <= DIVERGED_LOSS  # False for NaN
    lr, options = group.lr * lr_factor, {}
    if getattr(group.optimizer, "linear", False):  # R·N·K products in place of one for every weight
        dlogits *= lr[:, np.newaxis, np.newaxis]
        options["scaled"] = True
    grads, diverged = backward(dlogits), None
    group.state = state
    if not healthy.all():
        diverged = group.runs[~healthy]
        group.keep(healthy)
        grads, lr = select_runs(grads, healthy), lr[healthy]
    group.optimizer.update(group.params, grads, group.optimizer_state, lr, **options)
    return diverged


class _Probe:
    """Measures a group, on examples that are the same for all runs and steps, and touches no stream of theirs."""

    def __init__(
        self,
        data: Dataset,
        schedule: Schedule,
        lr_schedule: Callable[[int], float],
        diagnostics: Sequence[Diagnostic],
        dtype: np.dtype,
    ) -> None:
        probe = evenly(len(data.train_labels), schedule.probe_examples)
        self.x = to_float(data.train_images[None, probe], data.scale, dtype)
        self.targets = np.eye(data.classes, dtype=dtype)[data.train_labels[None, probe]]
        self.data, self.schedule, self.dtype = data, schedule, dtype
        self.lr_schedule, self.diagnostics = lr_schedule, diagnostics
        self.before: tuple[Array, dict[str, Array]] | None = None
        """Runs and taps of the measurement before."""

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def __call__(self, group: _Group, step: int) -> Measurement:
        network, taps = group.network, list[Array]()
        logits, _, backward = network.forward(group.params, group.state, self.x, train=True, taps=taps)
        loss, dlogits = softmax_cross_entropy(logits, self.targets)
        grads = backward(dlogits)
        snapshot = Snapshot(
            network=network,
            params=group.params,
            state=group.state,
            optimizer=group.optimizer,
            optimizer_state=group.optimizer_state,
            lr=group.lr * self.lr_schedule(step),
            x=self.x,
            targets=self.targets,
            taps=dict(zip(network.nonlinearities, taps, strict=True)),
            grads=grads,
            before=self._taps_before(group.runs),
        )
        self.before = group.runs, snapshot.taps
        curve: dict[str, Array] = {}
        layers: dict[str, Array] = {}
        units: dict[str, Array] = {}
        for diagnostic in self.diagnostics:
            reading = diagnostic(snapshot)
            curve |= reading.curve
            layers |= reading.layers
            units |= reading.units
        deepest = max((values.shape[1] for values in layers.values()), default=0)
        return Measurement(
            step=step,
            runs=group.runs,
            train_loss=loss,
            test_accuracy=self.accuracy(group, self.schedule.eval_examples),
            gradient_norm=gradient_norm(g for layer in grads.values() for g in layer.values()),
            curve=curve,
            layers=[{n: v[:, i] for n, v in layers.items() if i < v.shape[1]} for i in range(deepest)],
            units=units,
        )

    def _taps_before(self, runs: Array) -> dict[str, Array] | None:
        """The taps of the measurement before, of the runs that are left."""
        if self.before is None:
            return None
        runs_before, taps = self.before
        left = np.isin(runs_before, runs)
        return taps if left.all() else {name: tap[left] for name, tap in taps.items()}

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")
    def accuracy(self, group: _Group, examples: int | None = None) -> Array:
        """Test accuracy (R,), after averaging population statistics if the network asks for them."""
        network, state = group.network, group.state
        if network.needs_population_statistics:
            state = network.with_population_statistics(group.params, state, self._population_batches())
        return evaluate(network, group.params, state, self.data, examples, self.dtype)

    def _population_batches(self) -> Iterator[Array]:
        """Mini-batches of the size trained on, from a stream that is the same for all runs."""
        size, count = self.schedule.batch_size, len(self.data.train_labels)
        for batch in itertools.islice(minibatches(count, size, 0), min(POPULATION_BATCHES, count // size)):
            yield to_float(self.data.train_images[None, batch], self.data.scale, self.dtype)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def evaluate(
    network: Network,
    params: Params,
    state: Params,
    data: Dataset,
    examples: int | None = None,
    dtype: Any = np.float32,
) -> Array:
    """Test accuracy (R,) in inference mode, on this many evenly spaced test examples, or on all there are."""
    count = len(data.test_labels)
    chosen = evenly(count, examples or count)
    correct = np.zeros(1, int)
    for start in range(0, len(chosen), EVALUATION_CHUNK):
        chunk = chosen[start : start + EVALUATION_CHUNK]
        x = to_float(data.test_images[None, chunk], data.scale, dtype)
        logits, _, _ = network.forward(params, state, x, train=False)
        correct = correct + correct_predictions(logits, data.test_labels[chunk])
    return correct / len(chosen)


def evenly(count: int, wanted: int) -> Array:
    """Indices of ``wanted`` of ``count`` examples, evenly spaced, or of all."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int)
