"""Named layers, one after another or with branches, and the networks of the paper."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt

from .data import Dataset, IntArray
from .layers import (
    Array,
    AvgPool2D,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
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


IMAGES = ""
"""The name that stands for the images among those of layers."""


@dataclass(frozen=True)
class Network:
    """Layers applied in order; parameters and state are named by layer."""

    layers: dict[str, Layer]
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The layers, all of them before it, whose outputs a layer takes; of those that are not named, the one before."""

    def __post_init__(self) -> None:
        """Check that outputs are there when they are taken, and that all are.

        Raises:
            ValueError: naming the layer.
        """
        if unknown := [name for name in self.sources if name not in self.layers]:
            raise ValueError(f"sources of {unknown[0]}: must be of a layer, one of {', '.join(self.layers)}")
        left = {IMAGES}
        for name, sources in self.inputs.items():
            if missing := [source for source in sources if source not in left]:
                raise ValueError(f"sources of {name}: must be layers before it, not {', '.join(map(repr, missing))}")
            left |= {name}
        taken = {source for sources in self.inputs.values() for source in sources}
        if idle := [name for name in [*self.inputs][:-1] if name not in taken]:
            raise ValueError(f"layer {idle[0]}: must be a source of a layer behind it")

    @functools.cached_property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """Return for each layer the layers whose outputs it takes, or ``IMAGES``."""
        return {
            name: self.sources.get(name, (before,))
            for before, name in zip([IMAGES, *self.layers], self.layers, strict=False)
        }

    @functools.cached_property
    def _steps(self) -> list[tuple[str, Layer, tuple[str, ...], list[str]]]:
        """Return each layer, by name, with its sources and with the outputs that no layer behind it takes."""
        last = {source: name for name, sources in self.inputs.items() for source in sources}
        return [
            (name, layer, self.inputs[name], [source for source in last if last[source] == name])
            for name, layer in self.layers.items()
        ]

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Params, Params]:
        """Draw the parameters and state of one run, without the run axis, for examples of shape ``in_shape``.

        Layers draw in order, and normalisation draws nothing: equal seeds give equal weights with and without it.
        """
        params, state, _ = self._init(rng, in_shape)
        return params, state

    def _init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Params, Params, dict[str, Shape]]:
        params, state, shapes = {}, {}, {IMAGES: in_shape}
        for name, layer in self.layers.items():
            entering = _one_or_all([shapes[source] for source in self.inputs[name]])
            params[name], state[name], shapes[name] = layer.init(rng, entering)
        return params, state, shapes

    def shapes(self, in_shape: Shape) -> dict[str, Shape]:
        """Return the shapes of an example, ``in_shape`` by the name of ``IMAGES``, behind each layer."""
        return self._init(np.random.default_rng(0), in_shape)[2]

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
        outputs, new_state, steps = {IMAGES: x}, {}, []
        trained = set[str]()  # the layers whose outputs depend on parameters
        for name, layer, sources, used_up in self._steps:
            entering = _one_or_all([outputs[source] for source in sources])
            if taps is not None and isinstance(layer, Nonlinearity):
                taps.append(entering)
            outputs[name], new_state[name], step = layer.forward(params[name], state[name], entering, train=train)
            need_dx = not trained.isdisjoint(sources)
            if need_dx or params[name]:
                trained.add(name)
                steps.append((name, sources, step, need_dx))
            for source in used_up:
                del outputs[source]

        def backward(dy: Array) -> Params:
            grads: Params = {}
            gradients = {name: dy}  # of what layers give, added up over the layers that take it
            for layer, sources, step, need_dx in reversed(steps):
                dx, grads[layer] = step(gradients.pop(layer), need_dx=need_dx)
                if need_dx:
                    for i, source in enumerate(sources):
                        share = dx if len(sources) == 1 else dx[i]
                        gradients[source] = gradients[source] + share if source in gradients else share
            return grads

        return outputs[name], new_state, backward

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
            x = change(data.inputs(data.test_images[None, chunk], dtype))
            yield chunk, self.forward(params, state, x, train=False)[0]

    def until(self, name: str) -> Network:
        """Return the network up to what enters the layer ``name``: its last tap, since a nonlinearity stands there."""
        needed = {name}
        for layer, sources in reversed(self.inputs.items()):
            needed |= {*sources} if layer in needed else set()
        layers = {each: layer for each, layer in self.layers.items() if each in needed}
        kept = {each: sources for each, sources in self.sources.items() if each in needed}
        return replace(self, layers=layers | {name: ReLU()}, sources=kept)

    def largest_images(self, in_shape: Shape) -> int:
        """Return how many numbers the largest images of one example have that a layer gives; 0 if none gives images."""
        shapes = self.shapes(in_shape)
        del shapes[IMAGES]
        return max((math.prod(shape) for shape in shapes.values() if len(shape) > 1), default=0)

    @property
    def nonlinearities(self) -> dict[str, Nonlinearity]:
        """Return the layers whose inputs ``taps`` receives, by name, in order."""
        return {name: layer for name, layer in self.layers.items() if isinstance(layer, Nonlinearity)}

    @functools.cached_property
    def weights(self) -> dict[str, tuple[str, ...]]:
        """Return the layers that have weights W, in order, with the names of these among their parameters."""
        return {name: layer.weights for name, layer in self.layers.items() if layer.weights}

    def weights_before(self, name: str) -> str:
        """Return the name of the layer with weights that feeds the layer ``name``; of several, the last."""
        sources = self.inputs[name]
        found = [source if source in self.weights else self.weights_before(source) for source in sources]
        return max(found, key=[*self.layers].index)

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


def _one_or_all(items: Sequence[Any]) -> Any:
    """Return what a layer takes, or its shape: the only one, or a tuple of several."""
    return items[0] if len(items) == 1 else tuple(items)


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


def _convolved(
    tag: str,
    convolution: Conv2D,
    nonlinearity: Callable[[], Layer],
    norm: Callable[[], Layer] | None,
    placement: Placement,
    pool: Layer | None = None,
) -> dict[str, Layer]:
    """Return a convolution, pooling if there is any, norm, if any, and nonlinearity, by names that end in the tag."""
    layers = {f"conv{tag}": convolution} | ({f"pool{tag}": pool} if pool else {})
    return layers | _activated(tag, nonlinearity, norm, placement)


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
        convolution = Conv2D(maps, kernel, initializer, padding=kernel // 2, bias=own_bias)
        layers |= _convolved(str(i), convolution, nonlinearity, norm, placement)
        layers[f"pool{i}"] = MaxPool2D(2)
    layers["flatten"] = Flatten()
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["logits"] = Dense(classes, initializer)
    return Network(layers)


def inception(
    stem: int,
    modules: Sequence[Sequence[int]],
    classes: int,
    initializer: Initializer,
    nonlinearity: Callable[[], Layer],
    norm: Callable[[], Layer] | None,
    dropout: float = 0.0,
    placement: Placement = "before",
    bias: bool | None = None,
) -> Network:
    """Build a small Inception: stem, 2 × 2 max pooling, modules, global average pooling, and K logits W u + b.

    A module puts the feature maps of four branches side by side: a 1 × 1 convolution; a 1 × 1 and a 3 × 3; a 1 × 1 and
    two 3 × 3; and a 3 × 3 average pooling with a 1 × 1 projection. One that halves the image, as two of the paper's ten
    (its Figure 5), has no first branch, stride 2 in the last convolution of the second and third, and as fourth 3 × 3
    max pooling alone. Norm, if any, and nonlinearity follow every convolution. Dropout, if any, precedes the logits.

    Differs from the paper in that there are fewer layers, for smaller images; and in that the projection comes before
    the average pooling: that is the same function, and fewer maps are averaged.

    Args:
        stem: feature maps of the first convolution, 3 × 3.
        modules: of each the feature maps of the 1 × 1, of the 3 × 3 and the 1 × 1 before it, of the two 3 × 3 and the
            1 × 1 before them, and of the projection, in the order of the paper's Figure 5: [1 × 1, before 3 × 3, 3 × 3,
            before two 3 × 3, each of them, projection]. First and last are 0 in a module that halves the image.
        classes: K.
        initializer: draws W.
        nonlinearity: makes a nonlinearity.
        norm: makes a norm; None for none.
        dropout: its rate; 0 for none.
        placement: whether norms stand before or after nonlinearities.
        bias: whether convolutions have a bias; None: see :func:`has_bias`.
    """
    own_bias = has_bias(norm, placement, bias)

    def convolved(tag: str, maps: int, kernel: int, stride: int = 1, pool: Layer | None = None) -> dict[str, Layer]:
        convolution = Conv2D(maps, kernel, initializer, stride, padding=kernel // 2, bias=own_bias)
        return _convolved(tag, convolution, nonlinearity, norm, placement, pool)

    layers = {**convolved("0", stem, 3), "pool0": MaxPool2D(2)}
    sources: dict[str, tuple[str, ...]] = {}
    for i, (single, before_one, one, before_two, two, projection) in enumerate(modules, start=1):
        stride = 1 if single else 2
        branches = [
            {**convolved(f"{i}b1", before_one, 1), **convolved(f"{i}b2", one, 3, stride)},
            {
                **convolved(f"{i}c1", before_two, 1),
                **convolved(f"{i}c2", two, 3),
                **convolved(f"{i}c3", two, 3, stride),
            },
        ]
        if single:
            branches.insert(0, convolved(f"{i}a", single, 1))
            branches.append(convolved(f"{i}d", projection, 1, pool=AvgPool2D(3, 1, padding=1)))
        else:
            branches.append({f"pool{i}": MaxPool2D(3, 2, padding=1)})
        *_, entrance = layers
        for branch in branches:
            first, *_ = branch
            sources[first] = (entrance,)
            layers |= branch
        sources[f"concatenate{i}"] = tuple([*branch][-1] for branch in branches)
        layers[f"concatenate{i}"] = Concatenate()
    layers["average"] = GlobalAvgPool2D()
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["logits"] = Dense(classes, initializer)
    return Network(layers, sources)
