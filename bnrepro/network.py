"""A stack of named layers, and the paper's network as such a stack."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .data import Dataset, IntArray, to_float
from .layers import (
    Array,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Initializer,
    Layer,
    MaxPool2D,
    Nonlinearity,
    ReLU,
    Shape,
    correct_predictions,
    softmax_cross_entropy,
)
from .optim import Params

Tree = TypeVar("Tree", bound=Mapping[str, Any])
NetworkBackward = Callable[[Array], Params]
Placement = Literal["before", "after"]

EVALUATION_CHUNK = 256
"""Test examples per forward pass, so that activations stay in cache."""


@dataclass(frozen=True)
class Network:
    """Layers applied in order; parameters and state are named by layer."""

    layers: dict[str, Layer]

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Params, Params]:
        """Draw the parameters and state of one run, without the run axis, for examples of shape ``in_shape``.

        Layers draw in order, and normalisation draws nothing: equal seeds give equal weights with and without it.
        """
        params, state = {}, {}
        for name, layer in self.layers.items():
            params[name], state[name], in_shape = layer.init(rng, in_shape)
        return params, state

    def forward(
        self, params: Params, state: Params, x: Array, *, train: bool, taps: list[Array] | None = None
    ) -> tuple[Array, Params, NetworkBackward]:
        """Apply the layers to x (R or 1, N, C, H, W).

        Args:
            params: as stacked by :func:`stack_runs`.
            state: likewise.
            x: the mini-batch.
            train: whether normalisation uses the mini-batch's own statistics.
            taps: if given, receives what enters each nonlinearity, in order.

        Returns:
            The logits (R, N, K), the new state, and ``backward(dlogits)`` → gradients, named as ``params``.
        """
        new_state, steps = {}, []
        for name, layer in self.layers.items():
            if taps is not None and isinstance(layer, Nonlinearity):
                taps.append(x)
            x, new_state[name], step = layer.forward(params[name], state[name], x, train=train)
            steps.append((name, step))
        first = next(i for i, (name, _) in enumerate(steps) if params[name])

        def backward(dy: Array) -> Params:
            grads: Params = {}
            for i, (name, step) in reversed([*enumerate(steps)][first:]):
                dy, grads[name] = step(dy, need_dx=i > first)
            return grads

        return x, new_state, backward

    def loss(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """Return the loss (R,) and its gradient: see :func:`bnrepro.layers.softmax_cross_entropy`."""
        return softmax_cross_entropy(logits, targets)

    def count_correct(
        self, params: Params, state: Params, data: Dataset, chosen: IntArray, dtype: npt.DTypeLike
    ) -> Array:
        """Count the chosen test examples, (R,), that are classified right in inference mode."""
        correct = np.zeros(1, int)
        for chunk, logits in self.predict(params, state, data, chosen, dtype):
            correct = correct + correct_predictions(logits, data.test_labels[chunk])
        return correct

    def predict(
        self,
        params: Params,
        state: Params,
        data: Dataset,
        chosen: IntArray,
        dtype: npt.DTypeLike,
        *,
        at_once: int = EVALUATION_CHUNK,
        change: Callable[[Array], Array] = lambda images: images,
    ) -> Iterator[tuple[IntArray, Array]]:
        """Yield the logits (R, N, K) of the chosen test examples in inference mode, with the indices (N,) of these.

        Args:
            params: as stacked by :func:`stack_runs`.
            state: likewise.
            data: the data set.
            chosen: the indices of test examples.
            dtype: of the images.
            at_once: how many go through the network together.
            change: is done to the images (1, N, C, H, W) before.
        """
        for start in range(0, len(chosen), at_once):
            chunk = chosen[start : start + at_once]
            x = change(to_float(data.test_images[None, chunk], data.scale, dtype))
            yield chunk, self.forward(params, state, x, train=False)[0]

    def until(self, name: str) -> Network:
        """Return the network up to what enters the layer ``name``: its last tap, since a nonlinearity stands there."""
        before = itertools.takewhile(lambda item: item[0] != name, self.layers.items())
        return replace(self, layers={**dict(before), name: ReLU()})

    def largest_images(self, in_shape: Shape) -> int:
        """Return how many numbers the largest images of one example have that a layer gives; 0 if none gives images."""
        rng, sizes = np.random.default_rng(0), [0]
        for layer in self.layers.values():
            _, _, in_shape = layer.init(rng, in_shape)
            if len(in_shape) == 1:
                break
            sizes.append(math.prod(in_shape))
        return max(sizes)

    @property
    def nonlinearities(self) -> dict[str, Nonlinearity]:
        """Return the layers whose inputs ``taps`` receives, by name, in order."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, Nonlinearity)}

    @functools.cached_property
    def weights(self) -> dict[str, tuple[str, ...]]:
        """Return the layers that have weights W, in order, with the names of these among their parameters."""
        return {name: layer.weights for name, layer in self.layers.items() if layer.weights}

    def weights_before(self, name: str) -> str:
        """Return the name of the last layer with weights before the layer ``name``: the one that feeds it."""
        before = itertools.takewhile(lambda other: other != name, self.layers)
        return [other for other in before if other in self.weights][-1]

    def with_population_statistics(self, params: Params, state: Params, batches: Iterable[Array]) -> Params:
        """Return the state for inference by Algorithm 2 (steps 7 to 12), at the parameters as they are.

        Every batch norm that asks for it gets E[x] = E_B[μ_B] and Var[x] = m/(m−1) · E_B[σ²_B] over the given training
        mini-batches (R or 1, N, C, H, W), each normalised by its own statistics on its way through the network. Where
        none asks, no mini-batch is drawn.
        """
        asked = {name: layer.population(state[name]) for name, layer in self.layers.items()}
        gathered = {name: population for name, population in asked.items() if population is not None}
        if not gathered:
            return state
        averaging = replace(self, layers=self.layers | {name: layer for name, (layer, _) in gathered.items()})
        averages = state | {name: begun for name, (_, begun) in gathered.items()}
        for x in batches:
            _, averages, _ = averaging.forward(params, averages, x, train=True)
        return state | {name: averages[name] for name in gathered}


def stack_runs(trees: Sequence[Params], dtype: np.dtype) -> Params:
    """Give the parameters or states of R runs one leading run axis."""
    return {
        layer: {name: _of_type(np.stack([t[layer][name] for t in trees]), dtype) for name in arrays}
        for layer, arrays in trees[0].items()
    }


def _of_type(array: Array, dtype: np.dtype) -> Array:
    """Convert floats to ``dtype``; integers are keys and counters, and stay."""
    return array.astype(dtype) if np.issubdtype(array.dtype, np.floating) else array


def select_runs(tree: Tree, runs: Array) -> Tree:
    """Return parameters or states, of an optimiser's too, of some of the runs only, by index or mask on the run axis.

    What has no run axis is of all runs, and stays.
    """
    return cast(Tree, _selected(tree, runs))


def _selected(tree: Any, runs: Array) -> Any:
    if isinstance(tree, Mapping):
        return {name: _selected(inner, runs) for name, inner in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([_selected(inner, runs) for inner in tree])
    return tree[runs] if isinstance(tree, np.ndarray) and tree.ndim else tree


def copy_tree(tree: Params) -> Params:
    """Return a copy of parameters or states that shares no array with them."""
    return {layer: {name: a.copy() for name, a in arrays.items()} for layer, arrays in tree.items()}


def has_bias(norm: object, placement: Placement, bias: bool | None = None) -> bool:
    """Tell whether hidden layers have a bias b; if it is not said, unless a norm, whose β takes its place, follows."""
    return (norm is None or placement == "after") if bias is None else bias


def _activated(
    name: str, nonlinearity: Callable[[], Layer], norm: Callable[[], Layer] | None, placement: Placement
) -> dict[str, Layer]:
    """Return norm, if any, and nonlinearity in their order."""
    layers: dict[str, Layer] = {f"norm{name}": norm()} if norm else {}
    activation: dict[str, Layer] = {f"nonlinearity{name}": nonlinearity()}
    return layers | activation if placement == "before" else activation | layers


def mlp(
    hidden: Sequence[int],
    classes: int,
    initializer: Initializer,
    nonlinearity: Callable[[], Layer],
    norm: Callable[[], Layer] | None,
    dropout: float = 0.0,
    placement: Placement = "before",
    bias: bool | None = None,
) -> Network:
    """Build fully connected hidden layers, each z = g(norm(W u)) (paper, Section 3.2), and K logits W u + b.

    With the norm after the nonlinearity they are z = norm(g(W u + b)). Dropout, if any, is the last of each.

    Args:
        hidden: units of each hidden layer.
        classes: K.
        initializer: draws W.
        nonlinearity: makes g.
        norm: makes a norm; None for none.
        dropout: its rate; 0 for none.
        placement: whether the norm stands before or after the nonlinearity.
        bias: whether hidden layers have a bias b; None: see :func:`has_bias`.
    """
    layers: dict[str, Layer] = {"flatten": Flatten()}
    for i, units in enumerate(hidden, start=1):
        layers[f"dense{i}"] = Dense(units, initializer, bias=has_bias(norm, placement, bias), sparse=i == 1)
        layers |= _activated(str(i), nonlinearity, norm, placement)
        if dropout:
            layers[f"dropout{i}"] = Dropout(dropout)
    layers["logits"] = Dense(classes, initializer)
    return Network(layers)


def cnn(
    channels: Sequence[int],
    kernel: int,
    classes: int,
    initializer: Initializer,
    nonlinearity: Callable[[], Layer],
    norm: Callable[[], Layer] | None,
    dropout: float = 0.0,
    placement: Placement = "before",
    bias: bool | None = None,
) -> Network:
    """Build stages of convolution, norm, nonlinearity and 2 × 2 max pooling, then K logits W u + b.

    Convolutions keep the size of the image (for odd kernels). Dropout, if any, precedes the logits. Placement and bias
    are those of :func:`mlp`.
    """
    layers: dict[str, Layer] = {}
    for i, maps in enumerate(channels, start=1):
        own_bias = has_bias(norm, placement, bias)
        layers[f"conv{i}"] = Conv2D(maps, kernel, initializer, padding=kernel // 2, bias=own_bias)
        layers |= _activated(str(i), nonlinearity, norm, placement)
        layers[f"pool{i}"] = MaxPool2D(2)
    layers["flatten"] = Flatten()
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["logits"] = Dense(classes, initializer)
    return Network(layers)
