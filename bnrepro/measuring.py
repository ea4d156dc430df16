"""What a diagnostic is: a pure function of a snapshot of runs that declares the columns which it fills.

A :class:`Diagnostic` sees a fixed probe batch with normalisation in training mode, and the data set, and changes
nothing: curves are the same to the bit whichever diagnostics are on.

Letters for shapes: R runs, P examples of the probe batch, D units, L nonlinearities, K layers with weights, of which
the last gives the logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .data import Dataset, IntArray, training_batches
from .errors import InputError
from .layers import Array, Arrays, correct_predictions
from .network import Network, copy_tree
from .optim import Optimizer, Params, State


@dataclass(frozen=True)
class Snapshot:
    """The runs of a group at one measurement."""

    network: Network
    params: Params
    state: Params
    optimizer: Optimizer
    optimizer_state: State
    lr: Array
    """The learning rates (R,) in force at this step."""
    x: Array
    """The images of the probe batch, (1, P, C, H, W)."""
    targets: Array
    """The labels of the probe batch, (1, P, K), one-hot."""
    taps: Arrays
    """The inputs (R, P, ...) of each nonlinearity, by the nonlinearity's name."""
    grads: Params
    """The gradients of the mean loss on the probe batch."""
    before: Mapping[str, Array] | None
    """The ``taps`` of the same runs at the measurement before; None at the first."""
    data: Dataset
    """The data set."""
    batch_size: int
    """The examples of a mini-batch that the runs are trained on."""
    evaluated: IntArray
    """The indices of the test examples on which the accuracy is measured."""
    step: int
    """The number of updates done so far."""

    def gradient(self, params: Params) -> tuple[Array, Params]:
        """Return the loss (R,) and the gradients on the probe batch at other parameters."""
        logits, _, backward = self.network.forward(params, self.state, self.x, train=True)
        loss, dlogits = self.network.loss(logits, self.targets)
        return loss, backward(dlogits)

    def after_a_step(self) -> Params:
        """Return the parameters after one update by the optimiser, with the gradient of the probe batch."""
        params = copy_tree(self.params)
        self.optimizer.update(params, self.grads, copy.deepcopy(self.optimizer_state), self.lr, self.network.weights)
        return params

    def batches(self) -> Iterator[Array]:
        """Yield training mini-batches (1, N, C, H, W) of the size trained on, always the same, of no run's stream."""
        return training_batches(self.data, self.batch_size, self.lr.dtype)

    def accuracy(self, network: Network, state: Params, chosen: IntArray | None = None, **how: Any) -> Array:
        """Return the test accuracy (R,) of another network or state, on the examples evaluated or on those chosen.

        Args:
            network: with the parameters as they are.
            state: of the network.
            chosen: the indices of test examples.
            how: what :meth:`bnrepro.network.Network.predict` takes besides.
        """
        chosen, correct = self.evaluated if chosen is None else chosen, np.zeros(len(self.lr), int)
        for chunk, logits in network.predict(self.params, state, self.data, chosen, self.lr.dtype, **how):
            correct = correct + correct_predictions(logits, self.data.test_labels[chunk])
        return correct / len(chosen)


Level = Literal["run", "layer", "unit"]
"""The three things that may have a value at a measurement: the run, each layer, each unit of its last hidden layer."""


@dataclass(frozen=True)
class Column:
    """One column of what is measured, and how figures label an axis of its values."""

    name: str
    level: Level
    meaning: str
    unit: str = ""
    """The unit of the values; empty for pure numbers."""

    @property
    def label(self) -> str:
        """Return the label of an axis: the meaning, with the unit in brackets if there is one."""
        return f"{self.meaning} ({self.unit})" if self.unit else self.meaning


@dataclass(frozen=True)
class Diagnostic:
    """A pure function of a :class:`Snapshot`, and the columns that it fills."""

    columns: tuple[Column, ...]
    measure: Callable[[Snapshot], Mapping[str, Array]]
    """Returns an array for the name of each column: (R,) for a run, (R, L) or (R, K) for its layers, which need not be
    the same in all columns, and (R, D) for the units of the last hidden layer."""

    def __call__(self, snapshot: Snapshot) -> Mapping[str, Array]:
        """Measure: return an array for the name of each column, as ``measure`` does."""
        return self.measure(snapshot)


def measures(*columns: Column) -> Callable[[Callable[[Snapshot], Mapping[str, Array]]], Diagnostic]:
    """Make a :class:`Diagnostic` of the function that follows, which fills these columns."""
    return lambda measure: Diagnostic(columns, measure)


ALWAYS = (
    Column("train_loss", "run", "loss on the probe batch", "nats"),
    Column("test_accuracy", "run", "test accuracy"),
    Column("gradient_norm", "run", "norm of the gradient"),
)
"""The columns that are measured of every run."""

KEYS = ("run", "run_id", "step", "layer", "unit")
"""Columns that tell the rows of what is measured apart."""


def check_columns(diagnostics: Mapping[str, Diagnostic], taken: Iterable[str] = ()) -> None:
    """Refuse diagnostics whose columns can't stand beside each other, or beside what every table has.

    Args:
        diagnostics: by the names that settings have for them.
        taken: more names of columns that a table has.

    Raises:
        InputError: naming the diagnostic and the column.
    """
    # SQLite, which stores them, takes capital and small letters for the same.
    owners = {(level, name.lower()): "every table" for level in ("run", "layer", "unit") for name in (*KEYS, *taken)}
    owners |= {(column.level, column.name): "every run" for column in ALWAYS}
    for name, diagnostic in diagnostics.items():
        for column in diagnostic.columns:
            if not (column.name.isascii() and column.name.isidentifier()):
                raise InputError(f"diagnostics={name}: column {column.name!r} must be ASCII letters, digits and _")
            key = column.level, column.name.lower()
            if key in owners:
                raise InputError(
                    f"diagnostics={name}: column {column.name} of each {column.level} is {owners[key]}'s already"
                )
            owners[key] = name


def read(name: str, diagnostic: Diagnostic, snapshot: Snapshot) -> Iterator[tuple[Column, Array]]:
    """Measure, and check that what was found are the columns that the diagnostic declares, in their shapes.

    Raises:
        InputError: naming the diagnostic and the column.
    """
    found = diagnostic(snapshot)
    if set(found) != {column.name for column in diagnostic.columns}:
        declared = ", ".join(column.name for column in diagnostic.columns)
        raise InputError(f"diagnostics={name}: gives the columns {', '.join(found)}; it declares {declared}")
    runs, last = len(snapshot.lr), [*snapshot.taps.values()][-1:]
    allowed: dict[Level, list[tuple[int, ...]]] = {
        "run": [(runs,)],
        "layer": [(runs, len(snapshot.taps)), (runs, len(snapshot.network.weights))],
        "unit": [(runs, units_of(tap).shape[2]) for tap in last],
    }
    for column in diagnostic.columns:
        values = found[column.name]
        if np.shape(values) not in allowed[column.level]:
            raise InputError(
                f"diagnostics={name}: column {column.name} has shape {np.shape(values)}; of each {column.level} it "
                f"must be {' or '.join(map(str, allowed[column.level]))}"
            )
        yield column, values


def units_of(x: Array) -> Array:
    """View x (R, N, ...) as (R, N, D), one column per unit."""
    return x.reshape(*x.shape[:2], -1)
