"""The compiled engine, ``train.engine=compiled``: one run after another, each for all steps between two measurements.

Lock-step pays in NumPy, where one call does the work of R runs. Compiled code needs no such thing: one run's weights
stay in the core's own cache, nothing is written that only the next pass reads, and zeros of the images are skipped.

Here, layers become the operations of :mod:`bnrepro.kernels`, whose bits are the same on every machine. What is measured
goes through them, too, so that all that is stored has the same bits everywhere, but for singular values (diagnostic
``jacobian``), which are LAPACK's.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import kernels
from .batchnorm import BatchNorm
from .data import ByteArray, Dataset, IntArray
from .errors import InputError
from .kernels import (
    ADAGRAD,
    ADDS,
    AT_ONCE,
    BACKWARD,
    BIAS,
    BORDERED,
    BREADTH,
    BREADTH_IN,
    CENTRED,
    CODE,
    CONCATENATE,
    CONSTANTS,
    CONV,
    DENSE,
    DROPOUT,
    DX,
    DY,
    FIELDS,
    FORWARD,
    HEIGHT,
    HEIGHT_IN,
    KERNEL_BREADTH,
    KERNEL_HEIGHT,
    LINE,
    MAX_POOL,
    MEAN_POOL,
    MOMENTUM,
    NORM,
    PAD,
    PARAMS,
    PLACE,
    PLAIN,
    PREDICT,
    RELU,
    SCRATCH,
    SIGMOID,
    SIZE,
    SIZE_IN,
    STATE,
    STRIDE,
    TANH,
    TAP,
    TRAIN,
    WIDTH,
    X_WIDTH,
    F,
    X,
    Y,
)
from .layers import (
    Array,
    AvgPool2D,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    Nonlinearity,
    ReLU,
    Shape,
    Sigmoid,
    Tanh,
)
from .network import EVALUATION_CHUNK, IMAGES, Network, NetworkBackward, copy_tree
from .optim import SGD, Adagrad, Momentum, Optimizer, Params
from .training import DIVERGED_LOSS, Diverged, Engine, Group, Specification

OPERATIONS: Mapping[type[Layer], int | None] = {
    Flatten: None,
    Dense: DENSE,
    Conv2D: CONV,
    MaxPool2D: MAX_POOL,
    AvgPool2D: MEAN_POOL,
    GlobalAvgPool2D: MEAN_POOL,
    Concatenate: CONCATENATE,
    BatchNorm: NORM,
    Sigmoid: SIGMOID,
    ReLU: RELU,
    Tanh: TANH,
    Dropout: DROPOUT,
}
"""The layers that can be compiled; a class derived from one of them may do something else."""
OPTIMIZERS: Mapping[type[Optimizer], int] = {SGD: PLAIN, Momentum: MOMENTUM, Adagrad: ADAGRAD}

IN_PLACE = Nonlinearity | BatchNorm | Dropout
"""The layers whose gradient takes the place of that of their output, and of which some work in place altogether."""

CHUNK = 256
"""Steps that are trained at once, at most; their mini-batches are in memory."""
IMAGES_AT_ONCE = 32
"""Test images that go through convolutions at once."""
DENSITY = 0.3
"""The share of values that are not 0 up to which zeros are skipped: above it, that takes longer."""


def padded(size: int) -> int:
    """Return the floats that a row of so many takes."""
    return -(-size // LINE) * LINE


class Block(NamedTuple):
    """The place of one array of a run in the arena."""

    layer: str
    name: str
    offset: int
    shape: Shape
    """The shape as it stands there: in the order of memory, and the last axis padded to whole lines."""
    sizes: Shape
    """The shape without padding."""
    axes: tuple[int, ...]
    """The order that the layer has its axes in."""

    @property
    def end(self) -> int:
        """Return where the next begins."""
        return self.offset + padded(math.prod(self.shape))

    def of(self, arena: Array, moved: int = 0) -> Array:
        """View the array in the arena, or what stands ``moved`` floats behind it and belongs to it."""
        begin = self.offset + moved
        laid_out = arena[begin : begin + math.prod(self.shape)].reshape(self.shape)
        return laid_out[tuple(map(slice, self.sizes))].transpose(self.axes)


class _Images(NamedTuple):
    """What goes from one operation to the next, of each example: ``size`` channels of pixels; one pixel, if flat."""

    size: int
    height: int
    breadth: int
    width: int
    """The floats from one pixel to the next."""
    flat: bool
    """Whether the network takes them for one row of features."""

    @property
    def floats(self) -> int:
        return self.height * self.breadth * self.width

    def block(self, layer: str, name: str, offset: int, n: int) -> Block:
        """Return the place of n of them, in the order of axes (N, C, H, W)."""
        shape = n, self.height, self.breadth, self.width
        return Block(layer, name, offset, shape, (*shape[:3], self.size), (0, 3, 1, 2))


class Plan:
    """The operations that a network is for n examples at a time, and the place of everything in the arena."""

    def __init__(self, network: Network, n: int, in_shape: Shape, *, taps: bool) -> None:
        """Place everything, parameters first, so that each is in the same place whatever n is.

        Raises:
            InputError: if there is a layer that can't be compiled.
        """
        self.n, self.floats = n, 0
        self.params, self.state = list[Block](), list[Block]()
        self.taps: list[tuple[Block, bool]] = []
        """The place of what enters each nonlinearity, and whether that is flat."""
        self.drops: list[tuple[str, Dropout, _Images]] = []
        """Name and layer of each dropout, in order, and what goes through it."""
        self.constants: list[tuple[int, tuple[float, ...]]] = []
        steps = [*_steps(network, in_shape)]
        for step in steps:
            if isinstance(step.layer, Dense | Conv2D):
                self._place_weights(step.name, step.layer, step.x, step.y)
            elif isinstance(step.layer, BatchNorm):
                self._place(self.params, step.name, step.y.size, "gamma", "beta")
        self.gradients = self.floats
        self.floats *= 3  # gradients, and what the optimiser remembers
        of_params = {(block.layer, block.name): block.offset for block in self.params}
        images = steps[0].x
        at = {IMAGES: self._take(n * images.floats)}
        self.x = images.block("", "x", at[IMAGES], n)
        self.alone = [step.source for step in steps].count(IMAGES) == 1
        """Whether a single operation takes the images."""
        activated = set[int]()  # the places of what nonlinearities give, which their gradients take: not to be changed
        self.ops = np.full((len(steps), FIELDS), -1)
        for op, (name, layer, source, x, y, begin) in zip(self.ops, steps, strict=True):
            code = OPERATIONS[type(layer)]
            op[[CODE, X, X_WIDTH, SIZE_IN, HEIGHT_IN, BREADTH_IN]] = (
                code,
                at[source],
                x.width,
                x.size,
                x.height,
                x.breadth,
            )
            if isinstance(layer, Nonlinearity) and at[source] not in activated:  # works in place
                at[name] = at[source]
            elif name not in at:
                at[name] = self._take(n * y.floats)
            if isinstance(layer, Nonlinearity):
                activated.add(at[name])
            op[[Y, WIDTH, SIZE, HEIGHT, BREADTH, ADDS]] = at[name], y.width, y.size, y.height, y.breadth, 0
            if isinstance(layer, Dense | Conv2D):
                op[[PARAMS, BIAS]] = of_params[name, "W"], of_params.get((name, "b"), -1)
                self._set_kernel(op, layer, x)
            elif isinstance(layer, MaxPool2D | AvgPool2D):
                op[[KERNEL_HEIGHT, KERNEL_BREADTH, STRIDE, PAD]] = (
                    layer.size, layer.size, layer.stride or layer.size, layer.padding,
                )  # fmt: skip
                op[SCRATCH] = self._take(n * y.floats)
            elif isinstance(layer, GlobalAvgPool2D):
                op[[KERNEL_HEIGHT, KERNEL_BREADTH, STRIDE, PAD]] = x.height, x.breadth, 1, 0
                op[SCRATCH] = self._take(n * y.floats)
            elif isinstance(layer, Concatenate):
                op[PLACE] = begin
            elif isinstance(layer, BatchNorm):
                op[[PARAMS, BIAS]] = of_params[name, "gamma"], of_params[name, "beta"]
                op[STATE] = self.floats
                self._place(self.state, name, y.size, "mean", "var")
                self._place(self.state, name, 1, "updates")
                op[CONSTANTS] = self._constants(layer.eps, layer.momentum, layer.inference == "batch")
                op[SCRATCH] = self._take(2 * y.width)
                op[CENTRED] = self._take(n * y.floats) if op[X] in activated else op[X]
            elif isinstance(layer, Dropout):
                op[CONSTANTS] = self._constants(1 / (1 - layer.rate))
                self.drops.append((name, layer, y))
            elif taps:
                op[TAP] = self._take(n * y.floats)
                self.taps.append((y.block(name, "taps", int(op[TAP]), n), y.flat))
        self._place_gradients(steps)
        self.logits = steps[-1].y.block("", "logits", at[steps[-1].name], n)
        self.dlogits = self.logits._replace(offset=int(self.ops[-1, DY]))

    def _place_gradients(self, steps: Sequence[_Step]) -> None:
        """Place the gradients of what operations give, each in a buffer that is free until it has been gone through."""
        trained = set[str]()  # what depends on parameters
        for step in steps:
            if step.source in trained or isinstance(step.layer, Dense | Conv2D | BatchNorm):
                trained.add(step.name)
        sizes = [steps[-1].y.floats]
        held, free = {steps[-1].name: 0}, list[int]()  # by what is held: the number of its buffer
        buffers = np.full((len(steps), 2), -1)
        for i in reversed(range(len(steps))):
            name, layer, source, x, _, begin = steps[i]
            if name not in trained:
                continue
            buffers[i, 0] = held[name]
            if isinstance(layer, IN_PLACE):
                held[source] = held.pop(name)
                continue
            if source in trained:
                self.ops[i, ADDS] = source in held
                if source not in held:
                    if not free:
                        free.append(len(sizes))
                        sizes.append(0)
                    held[source] = free.pop()
                buffers[i, 1] = held[source]
                sizes[held[source]] = max(sizes[held[source]], x.floats)
            if begin == 0:  # of a concatenation the first, which is gone through last
                free.append(held.pop(name))
        at = np.array([*(self._take(self.n * size) for size in sizes), -1])
        self.ops[:, [DY, DX]] = at[buffers]

    def _place_weights(self, name: str, layer: Dense | Conv2D, x: _Images, y: _Images) -> None:
        """Place W as (K, K', C, F), and b."""
        kernel = _kernel(layer, x)
        axes = (3, 2, 0, 1) if isinstance(layer, Conv2D) else (2, 0, 1, 3)
        shape, sizes = (*kernel, x.width, y.width), (*kernel, x.size, y.size)
        self.params.append(Block(name, "W", self._take(math.prod(shape)), shape, sizes, axes))
        if layer.bias:
            self._place(self.params, name, y.size, "b")

    def _set_kernel(self, op: Array, layer: Dense | Conv2D, x: _Images) -> None:
        kernel = _kernel(layer, x)
        stride, pad = (layer.stride, layer.padding) if isinstance(layer, Conv2D) else (1, 0)
        pixels = math.prod(kernel)
        op[CODE] = DENSE if pixels == stride == 1 and pad == 0 else CONV
        op[[KERNEL_HEIGHT, KERNEL_BREADTH, STRIDE, PAD]] = *kernel, stride, pad
        op[AT_ONCE] = kernel[1] if x.size == x.width else 1
        op[BORDERED] = padded((x.height + 2 * pad) * (x.breadth + 2 * pad) * x.width) if pad else 0
        op[SCRATCH] = self._take(op[BORDERED] + pixels * int(op[SIZE]) * x.width)

    def _take(self, floats: int) -> int:
        begin, self.floats = self.floats, self.floats + padded(floats)
        return begin

    def _place(self, blocks: list[Block], layer: str, size: int, *names: str) -> None:
        blocks += [Block(layer, name, self._take(size), (padded(size),), (size,), (0,)) for name in names]

    def _constants(self, *values: float) -> int:
        begin = self._take(len(values))
        self.constants.append((begin, values))
        return begin

    def arena(self) -> Array:
        """Return an arena at a line of the cache, with 0 everywhere but in the constants."""
        spare = np.zeros(self.floats + LINE, F)
        arena = spare[-spare.ctypes.data // 4 % LINE :][: self.floats]
        for begin, values in self.constants:
            arena[begin : begin + len(values)] = values
        return arena

    def put(self, blocks: Sequence[Block], arena: Array, arrays: Params, run: int, moved: int = 0) -> None:
        """Copy arrays of one run into the arena."""
        for block in blocks:
            target = block.of(arena, moved)
            target[...] = arrays[block.layer][block.name][run].reshape(target.shape)

    def get(self, blocks: Sequence[Block], arena: Array, arrays: Params, run: int, moved: int = 0) -> None:
        """Copy arrays of one run out of the arena."""
        for block in blocks:
            target = arrays[block.layer][block.name]
            target[run] = block.of(arena, moved).reshape(target.shape[1:])

    def masks(self, state: Params, run: int, steps: int) -> Array:
        """Return the masks (steps, …) of all dropouts of a run, in order, for its next steps."""
        found = [np.empty((steps, 0), np.uint8)]
        for name, layer, x in self.drops:
            mask, block = np.zeros((steps, self.n * x.floats), np.uint8), x.block(name, "mask", 0, self.n)
            key, drawn = (int(state[name][each][run, 0]) for each in ("key", "drawn"))
            for step in range(steps):
                of_step = block.of(mask[step])
                of_step[...] = layer.kept(key, drawn + step, (self.n, math.prod(of_step.shape[1:]))).reshape(
                    of_step.shape
                )
            found.append(mask)
        return np.concatenate(found, axis=1)

    def count_masks(self, state: Params, run: int, drawn: int) -> None:
        """Count the masks that a run has drawn."""
        for name, _, _ in self.drops:
            state[name]["drawn"][run] += drawn

    @property
    def skips_zeros(self) -> bool:
        """Tell whether the first operation multiplies the rows that images are, few enough to be counted in 16 bits."""
        return bool(self.alone and self.ops[0, CODE] == DENSE and self.x.shape[1:3] == (1, 1) and self.n <= 2**16)

    def by_pixel(self, of_images: Sparse, batches: IntArray) -> Sparse:
        """Return the values that are not 0 by pixel, for each of some mini-batches (steps, N)."""
        if of_images is NO_ZEROS:
            return NO_BATCHES
        pixels = int(self.ops[0, SIZE_IN])
        return Sparse(*kernels.by_pixel(of_images.values, of_images.index, of_images.bounds, batches, pixels))


def _kernel(layer: Dense | Conv2D, x: _Images) -> tuple[int, int]:
    """Return the size of a kernel; an image that is flattened meets one as large as itself."""
    return (layer.kernel, layer.kernel) if isinstance(layer, Conv2D) else (x.height, x.breadth)


def _row(size: int) -> _Images:
    return _Images(size, 1, 1, padded(size), flat=True)


class _Step(NamedTuple):
    """A layer that does something, or what a concatenation does to one of its inputs."""

    name: str
    layer: Layer
    source: str
    """The step, or ``IMAGES``, whose output enters; steps of a concatenation have one name."""
    x: _Images
    y: _Images
    begin: int
    """The channel of y at which those of x begin."""


def _steps(network: Network, in_shape: Shape) -> Iterator[_Step]:
    """Yield what is done, in order.

    Raises:
        InputError: if there is a layer that can't be compiled.
    """
    channels, height, breadth = in_shape
    readers = [(source, name) for name, sources in network.inputs.items() for source in sources]
    taken = Counter(source for source, _ in readers)
    # Only a convolution takes pixels that are not padded: what is multiplied, but never a sum.
    bare = all(isinstance(network.layers[name], Conv2D) for source, name in readers if source == IMAGES)
    shapes = network.shapes(in_shape)
    images = {IMAGES: _Images(channels, height, breadth, channels if bare else padded(channels), flat=False)}
    steps = {IMAGES: IMAGES}  # by layer, that whose output it hands on
    for name, layer in network.layers.items():
        sources = network.inputs[name]
        x = images[sources[0]]
        if type(layer) not in OPERATIONS:
            known = ", ".join(kind.__name__ for kind in OPERATIONS)
            raise InputError(f"train.engine=compiled: takes the layers {known}, not {type(layer).__name__}")
        if isinstance(layer, BatchNorm | Concatenate) and any(
            images[source].flat and images[source].height * images[source].breadth > 1 for source in sources
        ):
            raise InputError(f"train.engine=compiled: takes no {type(layer).__name__} of images that are flattened")
        if isinstance(layer, IN_PLACE | Flatten) and taken[sources[0]] > 1:
            raise InputError(
                f"train.engine=compiled: takes no {type(layer).__name__} of an output that other layers take, too"
            )
        steps[name], images[name] = name, x
        size, *image = shapes[name]
        if isinstance(layer, Flatten):
            # No layer has laid out the images of the data set: they may as well be rows from the beginning.
            entered = steps[sources[0]] == IMAGES
            images[name] = _row(size) if entered else x._replace(flat=True)
            steps[name] = steps[sources[0]]
            continue
        if layer == Dropout(0):
            steps[name] = steps[sources[0]]
            continue
        if not image:
            images[name] = x if isinstance(layer, IN_PLACE) else _row(size)
        elif not isinstance(layer, IN_PLACE):
            (height, breadth), wide = image, isinstance(layer, Conv2D | Concatenate)
            images[name] = _Images(size, height, breadth, padded(size) if wide else x.width, flat=False)
        begin = 0
        for source in sources:
            yield _Step(name, layer, steps[source], images[source], images[name], begin)
            begin += images[source].size


@dataclass(frozen=True)
class Sparse:
    """The values of images that are not 0: of each image from ``bounds[i]`` to ``bounds[i + 1]``, with their pixels."""

    values: ByteArray
    index: Array
    bounds: IntArray


NO_ZEROS = Sparse(np.empty(0, np.uint8), np.empty(0, np.uint16), np.empty(0, np.int64))
NO_BATCHES = replace(NO_ZEROS, bounds=np.empty((0, 0), np.int64))
"""What stands in place of lists where no zeros are skipped."""


@functools.lru_cache(maxsize=2)  # the groups that a worker trains mostly have one data set
def _nonzero(data: Dataset) -> tuple[Sparse, Sparse]:
    """Return what of the training and of the test images is 0 neither there nor as an input, if that pays."""
    if data.mean is not None:
        return NO_ZEROS, NO_ZEROS
    return _listed(_as_rows(data.train_images)), _listed(_as_rows(data.test_images))


def _listed(images: ByteArray) -> Sparse:
    counts = np.count_nonzero(images, axis=1)
    if counts.sum() > DENSITY * images.size or images.shape[1] > 2**16:
        return NO_ZEROS
    _, pixels = np.nonzero(images)
    return Sparse(images[images > 0], pixels.astype(np.uint16), np.concatenate([[0], np.cumsum(counts)]))


_NOTHING = {
    "training": False,
    "segments": np.empty((0, 0), np.int64),
    "optimizer": PLAIN,
    "hyper": (F(0),) * 4,
    "lr": np.empty(0, F),
    "losses": np.empty(0, F),
    "images": np.empty((0, 0), np.uint8),
    "mean": np.empty(0, F),
    "scale": np.empty(0, F),
    "labels": np.empty(0, np.uint8),
    "batches": np.empty((0, 0), np.int64),
    "masks": np.empty((1, 0), np.uint8),
    "of_images": NO_ZEROS,
    "of_pixels": NO_BATCHES,
}


def _task(task: int, plan: Plan, arena: Array, **given: Any) -> int:
    """Call :func:`bnrepro.kernels.run` with what a task needs, in the order of ``_NOTHING``, and with nothing else."""
    arguments = (_NOTHING | given).values()
    return int(kernels.run(task, plan.ops, arena, plan.n, plan.gradients, *_flat(arguments)))


def _flat(arguments: Iterable[Any]) -> Iterator[Any]:
    for argument in arguments:
        yield from (argument.values, argument.index, argument.bounds) if isinstance(argument, Sparse) else (argument,)


@functools.lru_cache(maxsize=2)
def _affine(data: Dataset) -> tuple[Array, Array]:
    """Return what is subtracted from each pixel of an image, and what it is multiplied by then."""
    mean = 0.0 if data.mean is None else data.mean
    of_mean, of_scale = (np.broadcast_to(value, data.image_shape).astype(F).ravel() for value in (mean, data.scale))
    return of_mean, of_scale


def _as_rows(images: ByteArray) -> ByteArray:
    """View images (N, C, H, W) as (N, D), and a memory map as the array that it is."""
    return np.asarray(images).reshape(len(images), math.prod(images.shape[1:]))


@dataclass(frozen=True)
class CompiledNetwork(Network):
    """A network that goes through its layers in compiled code, one run after the other."""

    _plans: dict[tuple[Any, ...], Plan] = field(default_factory=dict, init=False, compare=False, repr=False)

    def plan(self, n: int, in_shape: Shape, *, taps: bool = False) -> Plan:
        """Return the operations for n examples at a time, of shape ``in_shape``."""
        key = n, tuple(in_shape), taps
        if key not in self._plans:
            self._plans[key] = Plan(self, n, in_shape, taps=taps)
        return self._plans[key]

    def forward(
        self, params: Params, state: Params, x: Array, *, train: bool, taps: list[Array] | None = None
    ) -> tuple[Array, Params, NetworkBackward]:
        """Apply the layers, as :meth:`bnrepro.network.Network.forward` does."""
        plan = self.plan(x.shape[1], x.shape[2:], taps=taps is not None)
        runs = len(params[plan.params[0].layer][plan.params[0].name])
        logits = np.empty((runs, plan.n, plan.logits.sizes[-1]), F)
        tapped: list[list[Array]] = [[] for _ in plan.taps]
        arenas, new_state = list[Array](), copy_tree(state)
        for run in range(runs):
            arena = plan.arena()
            plan.put(plan.params, arena, params, run)
            plan.put(plan.state, arena, state, run)
            entered = plan.x.of(arena)
            entered[...] = x[run % len(x)].reshape(entered.shape)
            _task(FORWARD, plan, arena, training=train, masks=plan.masks(state, run, 1))
            logits[run] = plan.logits.of(arena)[..., 0, 0]
            for found, (block, flat) in zip(tapped, plan.taps, strict=True):
                tap = block.of(arena)
                found.append(tap.reshape(plan.n, -1) if flat else tap)
            plan.get(plan.state, arena, new_state, run)
            plan.count_masks(new_state, run, int(train))
            arenas.append(arena)
        if taps is not None:
            taps += map(np.stack, tapped)

        def backward(dlogits: Array) -> Params:
            if not train:
                raise ValueError("the compiled engine goes back in training mode only")
            grads = {layer: {name: np.empty_like(p) for name, p in arrays.items()} for layer, arrays in params.items()}
            for run, arena in enumerate(arenas):
                plan.dlogits.of(arena)[..., 0, 0] = dlogits[run]
                _task(BACKWARD, plan, arena, masks=plan.masks(state, run, 1))
                plan.get(plan.params, arena, grads, run, moved=plan.gradients)
            return grads

        return logits, new_state, backward

    def loss(self, logits: Array, targets: Array) -> tuple[Array, Array]:
        """Return the cross-entropy and its gradient, as :func:`bnrepro.layers.softmax_cross_entropy` does."""
        labels, gradient = targets.argmax(axis=2).astype(np.uint8), np.empty_like(logits)
        pairs = [(z, labels[run % len(labels)], gradient[run]) for run, z in enumerate(logits)]
        return np.array([kernels.loss(z, of_run, dz) for z, of_run, dz in pairs], F), gradient

    def count_correct(
        self, params: Params, state: Params, data: Dataset, chosen: IntArray, dtype: npt.DTypeLike
    ) -> Array:
        """Count the chosen test examples that are classified right, as :class:`bnrepro.network.Network` does."""
        by_batch = any(isinstance(layer, BatchNorm) and layer.inference == "batch" for layer in self.layers.values())
        small = any(isinstance(layer, Conv2D) for layer in self.layers.values()) and not by_batch
        plan = self.plan(IMAGES_AT_ONCE if small else EVALUATION_CHUNK, data.image_shape)
        images, of_images = _as_rows(data.test_images), _nonzero(data)[1] if plan.skips_zeros else NO_ZEROS
        runs, (mean, scale) = len(params[plan.params[0].layer][plan.params[0].name]), _affine(data)
        correct, arena = np.zeros(runs, int), plan.arena()
        for run in range(runs):
            plan.put(plan.params, arena, params, run)
            plan.put(plan.state, arena, state, run)
            correct[run] = _task(
                *(PREDICT, plan, arena), images=images, labels=np.asarray(data.test_labels), batches=chosen[np.newaxis],
                of_images=of_images, mean=mean, scale=scale,
            )  # fmt: skip
        return correct


class Compiled(Engine):
    """Trains one run after the other in compiled code, each for all steps up to a measurement."""

    network: CompiledNetwork

    def __init__(self, spec: Specification, data: Dataset) -> None:
        """Make the plan."""
        super().__init__(spec, data)
        self.network = CompiledNetwork(self.network.layers, self.network.sources)
        self.plan = self.network.plan(spec.schedule.batch_size, data.image_shape)
        self.arena = self.plan.arena()
        self.images, self.affine = _as_rows(data.train_images), _affine(data)
        self.of_images = _nonzero(data)[0] if self.plan.skips_zeros else NO_ZEROS
        weights = {(layer, name) for layer, names in self.network.weights.items() for name in names}
        self.segments = np.array(
            [(block.offset, block.end, (block.layer, block.name) in weights) for block in self.plan.params]
        )
        settings = (getattr(spec.optimizer, name, 0) for name in ("momentum", "eps", "weight_decay"))
        self.hyper = *map(F, settings), F(DIVERGED_LOSS)

    @staticmethod
    def check(spec: Specification, data: Dataset) -> None:
        """Refuse what can't be compiled."""
        if data.whitening is not None:
            raise InputError("dataset.inputs=whitened: must be raw, centred or standardised with train.engine=compiled")
        if spec.dtype != F:
            raise InputError(f"train.dtype={spec.dtype}: must be float32 with train.engine=compiled")
        if type(spec.optimizer) not in OPTIMIZERS:
            known = ", ".join(kind.__name__ for kind in OPTIMIZERS)
            raise InputError(
                f"train.engine=compiled: takes the optimizers {known}, not {type(spec.optimizer).__name__}"
            )
        Plan(spec.networks[0], spec.schedule.batch_size, data.image_shape, taps=False)

    @np.errstate(over="ignore", invalid="ignore")
    def advance(self, group: Group, start: int, stop: int) -> Iterator[Diverged]:
        """Train run by run."""
        for begin in range(start, stop, CHUNK):
            steps = range(begin, min(begin + CHUNK, stop))
            factors = np.array([self.spec.lr_schedule(step) for step in steps])
            done = np.zeros(len(group.seeds), int)
            for seed in dict.fromkeys(group.seeds):
                batches = self._batches(seed, len(steps))
                for run in (i for i, own in enumerate(group.seeds) if own == seed):
                    lr = (float(group.lr[run]) * factors).astype(F)
                    done[run] = self._train(group, run, lr, batches)
            for step in sorted({*done[done < len(steps)].tolist()}):
                yield Diverged(begin + step, group.runs[done == step])
            group.keep(done == len(steps))
            if not group.seeds:
                return

    def _batches(self, seed: int, steps: int) -> dict[str, Any]:
        """Return the next mini-batches of a seed: indices into images, as they are or changed, and their labels."""
        labels = np.asarray(self.data.train_labels)
        if not self.data.augmentation:
            batches = np.stack([next(self.streams[seed]) for _ in range(steps)])
            lists = {"of_images": self.of_images, "of_pixels": self.plan.by_pixel(self.of_images, batches)}
            return {"images": self.images, "labels": labels, "batches": batches} | lists
        drawn, images = (
            np.concatenate(arrays) for arrays in zip(*(self.draw(seed) for _ in range(steps)), strict=True)
        )
        return {
            "images": _as_rows(images),
            "labels": labels[drawn],
            "batches": np.arange(len(drawn)).reshape(steps, -1),
        }

    def _train(self, group: Group, run: int, lr: Array, batches: Mapping[str, Any]) -> int:
        plan, arena = self.plan, self.arena
        remembered = plan.params if group.optimizer_state else []
        plan.put(plan.params, arena, group.params, run)
        plan.put(plan.state, arena, group.state, run)
        plan.put(remembered, arena, group.optimizer_state, run, moved=2 * plan.gradients)
        done = _task(
            *(TRAIN, plan, arena),
            training=True,
            segments=self.segments,
            optimizer=OPTIMIZERS[type(self.spec.optimizer)],
            hyper=self.hyper,
            lr=lr,
            losses=np.empty(len(lr), F),
            masks=plan.masks(group.state, run, len(lr)),
            **batches,
            mean=self.affine[0],
            scale=self.affine[1],
        )
        plan.get(plan.params, arena, group.params, run)
        plan.get(plan.state, arena, group.state, run)
        plan.get(remembered, arena, group.optimizer_state, run, moved=2 * plan.gradients)
        plan.count_masks(group.state, run, len(lr))
        return done
