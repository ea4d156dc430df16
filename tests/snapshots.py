"""Snapshots of runs, for the tests of diagnostics."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bnrepro import measuring
from bnrepro.batchnorm import BatchNorm
from bnrepro.data import Dataset
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.layers import Array, ReLU, Sigmoid, xavier
from bnrepro.measuring import Snapshot
from bnrepro.network import Network, cnn, copy_tree, inception, mlp, select_runs, stack_runs
from bnrepro.optim import SGD, Adagrad, Momentum, Optimizer, Params


def as_in_training() -> np.errstate:
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(weight_decay=0.0),
    "decayed sgd": SGD(weight_decay=0.1),
    "momentum": Momentum(weight_decay=0.1, momentum=0.9),
    "adagrad": Adagrad(weight_decay=0.0, eps=1.0),
}
NETWORKS = {
    "sigmoid": mlp([5, 4, 6], 3, xavier, Sigmoid, None),
    "sigmoid, batch norm": mlp([5, 4, 6], 3, xavier, Sigmoid, BatchNorm),
    "relu": mlp([5, 4, 6], 3, xavier, ReLU, None),
    "relu, batch norm, dropout": mlp([5, 4, 6], 3, xavier, ReLU, BatchNorm, 0.3),
    "cnn": cnn([2, 3], 3, 3, xavier, ReLU, None),
    "cnn, batch norm": cnn([2, 3], 3, 3, xavier, Sigmoid, BatchNorm),
    "inception": inception(2, [[2, 1, 2, 1, 2, 1]], 3, xavier, ReLU, BatchNorm),
}
each_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
each_mlp = pytest.mark.parametrize("network", list(NETWORKS.values())[:4], ids=list(NETWORKS)[:4])
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def tree_like(params: Params, rng: np.random.Generator, scale: float) -> Params:
    return {
        layer: {name: (scale * rng.standard_normal(a.shape)).astype(a.dtype) for name, a in arrays.items()}
        for layer, arrays in params.items()
    }


def plus(a: Params, b: Params) -> Params:
    return {layer: {name: p + b[layer][name] for name, p in arrays.items()} for layer, arrays in a.items()}


def arrays_of(s: Snapshot) -> Iterator[Array]:
    yield from (s.lr, s.x, s.targets, *s.taps.values(), *(s.before or {}).values())
    for tree in (s.params, s.state, s.optimizer_state, s.grads):
        for arrays in tree.values():
            yield from arrays.values()


def measured(s: Snapshot, **changes: Any) -> Snapshot:
    """The snapshot after ``changes``, with taps and gradients to match; its arrays refuse to be changed."""
    s = replace(s, **changes)
    taps: list[Array] = []
    s.network.forward(s.params, s.state, s.x, train=True, taps=taps)
    _, grads = s.gradient(s.params)
    s = replace(s, taps=dict(zip(s.network.nonlinearities, taps, strict=True)), grads=grads)
    for a in arrays_of(s):
        a.flags.writeable = False
    return s


def some_data(side: int) -> Dataset:
    """70 training and 41 test images of three classes, which differ in brightness."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 111).astype(np.uint8)
    images = (rng.integers(0, 140, (111, 1, side, side)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    arrays = images[:70], labels[:70], images[70:], labels[70:]
    for a in arrays:
        a.flags.writeable = False
    return Dataset(*arrays, classes=3, scale=1 / 255)


def take(
    network: Network, optimizer: Optimizer = OPTIMIZERS["sgd"], dtype: Any = np.float64, side: int = 4
) -> Snapshot:
    """Three runs with weights, learning rates and memories of their own, some way into training."""
    rng, image, examples = np.random.default_rng(0), (1, side, side), 4 * side
    inits = [network.init(rng, image) for _ in range(3)]
    params, state = (stack_runs(trees, np.dtype(dtype)) for trees in zip(*inits, strict=True))
    params = plus(params, tree_like(params, rng, 0.3))
    memory = optimizer.init(params)
    for _ in range(2):
        optimizer.update(copy_tree(params), tree_like(params, rng, 0.1), memory, np.ones(3, dtype), network.weights)
    empty: Any = {}
    before = measured(
        Snapshot(
            network=network,
            params=plus(params, tree_like(params, rng, 0.2)),
            state=state,
            optimizer=optimizer,
            optimizer_state=memory,
            lr=np.array([0.05, 0.2, 0.5], dtype),
            x=rng.standard_normal((1, examples, *image)).astype(dtype),
            targets=np.eye(3, dtype=dtype)[rng.integers(0, 3, (1, examples))],
            taps=empty,
            grads=empty,
            before=None,
            data=some_data(side),
            batch_size=6,
            evaluated=np.arange(1, 40, 2),
            step=2,
        )
    )
    return measured(before, params=params, before=before.taps)


def select(s: Snapshot, runs: list[int]) -> Snapshot:
    at = np.array(runs)
    trees: dict[str, Any] = {
        name: select_runs(getattr(s, name), at) for name in ("params", "state", "optimizer_state", "grads")
    }
    taps = {name: tap[at] for name, tap in s.taps.items()}
    before = s.before and {name: tap[at] for name, tap in s.before.items()}
    return replace(s, **trees, lr=s.lr[at], taps=taps, before=before)


def alone(s: Snapshot) -> Iterator[tuple[int, Snapshot]]:
    for r in range(len(s.lr)):
        yield r, select(s, [r])


def read(name: str, s: Snapshot) -> dict[str, Array]:
    with as_in_training():
        return {column.name: values for column, values in measuring.read(name, DIAGNOSTICS[name], s)}
