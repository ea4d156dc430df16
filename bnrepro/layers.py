"""Layers with a leading run axis: R copies of one network advance in lock-step.

The contract, the same for every layer (and for :class:`bnrepro.batchnorm.BatchNorm`)::

    init(rng, in_shape)                  # → params, state, out_shape: of one run, without the run axis
    forward(params, state, x, *, train)  # → y, state, backward
    backward(dy)                         # → dx, grads (same keys as params)

``forward`` is pure: it changes none of its arguments, and ``backward`` closes over what it needs and may be called
any number of times. So evaluating can't disturb training, and a gradient at other weights is just another call.
``dx`` is the gradient of the loss with respect to ``x``; with ``need_dx=False`` nobody reads it, and a layer may return
``NO_DX`` in its place. A layer of several inputs, such as :class:`Concatenate`, takes a tuple of arrays (``init``: of
shapes) and returns one of gradients.

A layer of one's own derives from :class:`Layer`, an activation from :class:`Nonlinearity`, a norm from :class:`Norm`;
everything that is asked of them stands there.

Letters for shapes: R runs, N examples, D features, C channels, H height, W width, K classes. The run axis of ``x``
may be 1 where all runs see the same mini-batch; it broadcasts. Every product and reduction is done per run, so that
run r in a group gives the same bits as run r alone.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Shape = tuple[int, ...]

NO_DX: Array = np.empty(0)
"""The array that ``backward`` returns for a gradient that nobody asked for; it fits no shape: using it fails."""


class Backward(Protocol):
    """The second half of ``forward``: from the gradient of the loss at the output to those at input and parameters."""

    def __call__(self, dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
        """Return dx, of the shape of x, and the gradients of the parameters, for dy of the shape of y (R, N, ...).

        With ``need_dx=False``, dx may be ``NO_DX``.
        """
        ...


class Layer(Protocol):
    """A layer of a network, here without parameters and state; the module's docstring has the contract."""

    weights: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that are weights W: they decay, and diagnostics of weights follow them."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Draw the parameters and the state of one run, for examples of shape ``in_shape``; here there are none."""
        return {}, {}, in_shape

    @abstractmethod
    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply the layer to x (R, N, ...)."""
        ...

    def population(self, state: Arrays) -> tuple[Layer, Arrays] | None:
        """Tell how statistics for inference are gathered afresh (Algorithm 2), for a layer whose inference needs that.

        Returns:
            The layer through which training mini-batches then pass, in training mode, and the state that it begins
            with; what its state is in the end is the state for inference. None if inference takes the state of
            training, as here.
        """
        return None


class Norm(Layer, Protocol):
    """A layer before a nonlinearity, whose shift takes the place of the bias; a dataclass whose fields are settings."""

    least_values: ClassVar[int] = 1
    """The least number of values of a feature that a training mini-batch must have."""


Initializer = Callable[[np.random.Generator, int, int, Shape], Array]
"""Draws weights: (rng, fan_in, fan_out, shape) → W. All of them scale the same standard normal draws."""


@dataclass(frozen=True)
class Normal:
    """W ~ N(0, std²): the paper's "small random Gaussian values" (Section 4.1), whose std it does not state."""

    std: float

    def __call__(self, rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
        """Draw weights of the given shape; the fans play no part."""
        return rng.standard_normal(shape) * self.std


def xavier(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
    """Draw W ~ N(0, 2 / (fan_in + fan_out)): Glorot & Bengio 2010, Eq. 12, who draw it uniformly with that variance."""
    return rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))


def he(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
    """Draw W ~ N(0, 2 / fan_in): He et al. 2015, Eq. 10, for ReLU."""
    return rng.standard_normal(shape) * math.sqrt(2 / fan_in)


@functools.lru_cache
def constant(value: float, shape: Shape, dtype: np.dtype) -> Array:
    """Return an array of one value, to be read only: made once, since a small one takes longer to make than to use."""
    array = np.full(shape, value, dtype)
    array.flags.writeable = False
    return array


def sum_over_examples(x: Array) -> Array:
    """Sum x (R, N, D) over N, giving (R, 1, D): as a product with ones, which BLAS does in one pass."""
    return constant(1, (1, x.shape[1]), x.dtype) @ x


def channels_last(x: Array) -> Array:
    """View images (R, N, C, H, W) as (R, N, H, W, C), the order in which every layer lays them in memory.

    Products and sums then take the channels of a pixel at once, and all else takes long rows. Images in another order
    of memory, as they come from a data set, are copied.
    """
    return np.ascontiguousarray(x.transpose(0, 1, 3, 4, 2))


def channels_first(pixels: Array) -> Array:
    """View (R, N, H, W, C) as the (R, N, C, H, W) that layers pass on."""
    return pixels.transpose(0, 1, 4, 2, 3)


def as_rows(x: Array) -> Array:
    """View images (R, N, C, H, W) as (R, N·H, W·C), a row of pixels after the other; x (R, N, D) stays as it is."""
    if x.ndim == 3:
        return x
    runs, examples, channels, height, width = x.shape
    return channels_last(x).reshape(runs, examples * height, width * channels)


def from_rows(rows: Array, shape: Shape) -> Array:
    """View what ``as_rows`` made of an array again as that array, of the given shape but for the runs."""
    if len(shape) == 3:
        return rows
    _, examples, channels, height, width = shape
    return channels_first(rows.reshape(-1, examples, height, width, channels))


def along_rows(per_feature: Array, rows: Array) -> Array:
    """Repeat one value per feature, (R, 1, D) or (R, 1, C, 1, 1), so that it broadcasts against ``as_rows``."""
    if per_feature.ndim == 3:
        return per_feature
    runs, _, channels = per_feature.shape[:3]
    return np.tile(per_feature.reshape(runs, 1, channels), rows.shape[2] // channels)


def sum_rows(rows: Array, shape: Shape) -> Array:
    """Sum rows over everything but runs and features, to ``shape``: (·, 1, D) or, of images, (·, 1, C, 1, 1)."""
    sums = sum_over_examples(rows)
    if len(shape) == 3:
        return sums
    return sum_over_examples(sums.reshape(len(rows), -1, shape[2])).reshape(-1, *shape[1:])


def sum_per_feature(x: Array) -> Array:
    """Sum over everything but runs and features: (R, N, D) → (R, 1, D), and (R, N, C, H, W) → (R, 1, C, 1, 1)."""
    return sum_rows(as_rows(x), (1, 1, x.shape[2], *(1 for _ in x.shape[3:])))


def require(allowed: bool, setting: str, range_: str) -> None:
    """Refuse a setting, given as ``name=value``, outside its range.

    Raises:
        ValueError: naming the setting, its value and what is allowed.
    """
    if not allowed:
        raise ValueError(f"{setting}: must be {range_}")


def require_shape(x: Array, axes: str, layer: str) -> None:
    """Refuse an input that has not the named axes, or is not of a floating type.

    Raises:
        ValueError: naming the layer, what it takes and what it got.
    """
    if x.ndim != axes.count(" ") + 1 or x.dtype.kind != "f":
        expected = ", ".join(axes.split())
        raise ValueError(f"{layer} takes floats of shape ({expected}), not {x.dtype} of shape {x.shape}")


SKIPPING_COST = 20
"""Examples whose multiplication takes about as long as skipping features does: the rows of W that are
left are gathered, and their gradients put among zeros."""

LEAST_FEATURES = 256
"""Features below which a look for those to skip is not worth its time."""


def product(x: Array, weights: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return x W of x (R or 1, N, D) and W (R, D, D_out), and the function dy → dW."""
    return x @ weights, lambda dy: x.swapaxes(1, 2) @ dy


def sparse_product(x: Array, weights: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Return what :func:`product` does, but skip the features that are 0 in a run's whole mini-batch: dW is 0 there.

    What is skipped follows from the run's own mini-batch, so that no bit depends on the group. An infinite weight that
    is skipped makes no NaN of 0 · ∞: the loss shows it, and the run diverges, once a mini-batch has the feature.
    """
    n, d = x.shape[1:]
    if d < LEAST_FEATURES:
        return product(x, weights)
    for examples in x[:, :8], x:  # a few show at once that x is dense
        used = np.logical_or.reduce(examples, axis=1)
        dense = [n * (d - np.count_nonzero(of_run)) < SKIPPING_COST * d for of_run in used]
        if all(dense):
            return product(x, weights)
    used[dense] = True
    parts = [(features := np.flatnonzero(u), batch.take(features, axis=1)) for u, batch in zip(used, x, strict=True)]
    if len(x) == 1:
        parts *= len(weights)
    y = np.empty((len(weights), n, weights.shape[2]), weights.dtype)
    for y_run, w, (features, batch) in zip(y, weights, parts, strict=True):
        np.matmul(batch, w.take(features, axis=0), out=y_run)

    def gradient(dy: Array) -> Array:
        dweights = np.zeros(weights.shape, weights.dtype)
        for dw, dy_run, (features, batch) in zip(dweights, dy, parts, strict=True):
            dw[features] = batch.T @ dy_run
        return dweights

    return y, gradient


@dataclass(frozen=True)
class Dense(Layer):
    """y = x W + b, with W (R, D_in, D_out) and b (R, 1, D_out).

    It has no bias before a batch norm, whose β takes its place (paper, Section 3.2).
    """

    units: int
    initializer: Initializer
    bias: bool = True
    sparse: bool = False
    """Whether to look for features that are 0 in a whole mini-batch, as the margins of images are, and skip them."""
    weights = ("W",)

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Draw W by the initializer; b = 0."""
        if len(in_shape) != 1:
            raise ValueError(f"Dense takes examples of shape (D,), not {in_shape}: flatten them first")
        (d_in,) = in_shape
        params = {"W": self.initializer(rng, d_in, self.units, (d_in, self.units))}
        if self.bias:
            params["b"] = np.zeros((1, self.units))
        return params, {}, (self.units,)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Multiply x (R or 1, N, D_in) by W; y is (R, N, D_out)."""
        require_shape(x, "R N D", "Dense")
        weights = params["W"]
        if x.shape[2] != weights.shape[1]:
            raise ValueError(f"Dense has weights for D = {weights.shape[1]}, not {x.shape[2]}")
        y, gradient = (sparse_product if self.sparse else product)(x, weights)
        if self.bias:
            y += params["b"]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            grads = {"W": gradient(dy)}
            if self.bias:
                grads["b"] = sum_over_examples(dy)
            return (dy @ weights.swapaxes(1, 2) if need_dx else NO_DX), grads

        return y, state, backward


@dataclass(frozen=True)
class Flatten(Layer):
    """Turn (R, N, C, H, W) into (R, N, C·H·W); without a copy if that is the order in memory."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return no parameters and no state."""
        return {}, {}, (math.prod(in_shape),)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """View x (R, N, ...) as y (R, N, D)."""
        return x.reshape(*x.shape[:2], -1), state, lambda dy, *, need_dx=True: (dy.reshape(x.shape), {})


def _out_size(size: int, kernel: int, stride: int, padding: int, layer: str) -> int:
    if size + 2 * padding < kernel:
        raise ValueError(f"{layer}: kernel {kernel} is larger than the image, {size} with padding {padding}")
    return (size + 2 * padding - kernel) // stride + 1


def _items(pixels: Array) -> Array:
    """View pixels (..., C) as (...) of one item each, which NumPy moves faster than C numbers one by one."""
    return pixels.view(np.dtype((np.void, pixels.shape[-1] * pixels.itemsize)))[..., 0]


PATCHES = 1 << 19
"""Bytes of patches that are gathered at a time: they are multiplied while they are in the L2 cache."""

SMALL_PRODUCT = 10**6
"""Multiplications in a product of matrices up to which OpenBLAS, on AVX-512, copies neither of them first. Smaller
products then take a quarter less time, where channels are few; without AVX-512 they take 2% to 5% more."""


def _rows_of_product(out: Shape, inner: int, channels: int) -> int:
    """Return how many windows go into one product: those of an image, or of a part of its rows if that is small."""
    for parts in range(1, out[0] + 1):
        rows = math.prod(out) // parts
        if out[0] % parts == 0 and rows >= 48 and rows * inner * channels <= SMALL_PRODUCT:
            return rows
    return math.prod(out)


def _patches(
    x: Array, kernel: Shape, start: Shape, out: Shape, stride: int = 1
) -> Iterator[tuple[slice, slice, Array]]:
    """Gather what a kernel (K, K', C, F) meets in images (R, N, H, W, C), some images of one run at a time (im2col).

    The windows are ``out`` (H', W') in number, ``stride`` apart, the first at the pixel ``start``; pixels outside of
    the image are 0.

    Yields:
        The run, the images, and their patches (·, M, K·K'·C), M windows for each product; valid until the next.
    """
    (runs, examples, *image, channels), (height, width) = x.shape, kernel[:2]
    inner = height * width * channels
    m = _rows_of_product(out, inner, kernel[3])
    some = math.ceil(examples / math.ceil(examples * math.prod(out) * inner * x.itemsize / PATCHES))
    each = itertools.product(range(runs), range(0, examples, some))
    if (height, width, *start, *out) == (1, 1, 0, 0, *image):
        for r, n in each:
            yield slice(r, r + 1), slice(n, n + some), x[r, n : n + some].reshape(-1, m, channels)
        return
    extent = [stride * (n - 1) + k for n, k in zip(out, kernel, strict=False)]
    ends = [(max(s, 0), max(s, min(s + e, i), 0)) for s, e, i in zip(start, extent, image, strict=True)]
    of = [slice(first, last) for first, last in ends]
    to = [slice(first - s, last - s) for s, (first, last) in zip(start, ends, strict=True)]
    if few := width * channels < out[1]:  # NumPy moves the pixels of a row of windows at once
        padded = np.zeros((some, channels, *extent), x.dtype).transpose(0, 2, 3, 1)
        n_, h_, w_, c_ = padded.strides
        shape = some, height, width, channels, *out
        windows = as_strided(padded, shape, (n_, h_, w_, c_, stride * h_, stride * w_))
    else:  # NumPy moves a row of a window at once, as one item
        padded = np.zeros((some, *extent, channels), x.dtype)
        n_, h_, w_, _ = padded.strides
        item = np.dtype((np.void, width * channels * x.itemsize))
        windows = np.ndarray((some, *out, height), item, padded, strides=(n_, stride * h_, stride * w_, h_))
    patches = np.empty(windows.shape, windows.dtype)
    for r, n in each:
        images = x[r, n : n + some]
        count = len(images)
        padded[:count, *to] = images[:, *of]
        patches[:count] = windows[:count]
        if few:
            matrices = patches[:count].reshape(count, inner, -1).swapaxes(1, 2)
        else:
            matrices = patches[:count].view(x.dtype).reshape(-1, m, inner)
        yield slice(r, r + 1), slice(n, n + count), matrices


def _correlate(x: Array, kernel: Array, start: Shape, out: Shape, stride: int = 1) -> Array:
    """Correlate images (R, N, H, W, C) with a kernel (R, K, K', C, F), by the windows of ``_patches``."""
    runs, *shape = kernel.shape
    weights = kernel.reshape(runs, 1, -1, shape[-1])
    y = np.empty((runs, x.shape[1], *out, shape[-1]), x.dtype)
    for r, n, patches in _patches(x, tuple(shape), start, out, stride):
        r = r if len(x) == runs else slice(None)
        part = y[r, n]
        np.matmul(patches, weights[r], out=part.reshape(len(part), *patches.shape[:2], -1))
    return y


@dataclass(frozen=True)
class Conv2D(Layer):
    """Cross-correlation: y[f, p, q] = Σ_{c,i,j} W[f, c, i, j] x[c, p·stride + i, q·stride + j] + b[f].

    W is (R, F, C, K, K), b is (R, 1, F, 1, 1); x (R, N, C, H, W) is padded by zeros on all sides. Windows that do not
    fit are left out: H' = ⌊(H + 2 padding − K) / stride⌋ + 1. The windows of some images become a matrix
    (n·H'·W', K·K·C) (im2col), which BLAS multiplies. Without bias before a batch norm.
    """

    channels: int
    kernel: int
    initializer: Initializer
    stride: int = 1
    padding: int = 0
    bias: bool = True
    weights = ("W",)

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Draw W by the initializer, with fan_in = C·K·K and fan_out = F·K·K; b = 0."""
        if len(in_shape) != 3:
            raise ValueError(f"Conv2D takes examples of shape (C, H, W), not {in_shape}")
        c, *image = in_shape
        area = self.kernel**2
        shape = (self.channels, c, self.kernel, self.kernel)
        params = {"W": self.initializer(rng, c * area, self.channels * area, shape)}
        if self.bias:
            params["b"] = np.zeros((1, self.channels, 1, 1))
        out = (_out_size(size, self.kernel, self.stride, self.padding, "Conv2D") for size in image)
        return params, {}, (self.channels, *out)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Correlate x (R or 1, N, C, H, W) with W; y is (R, N, F, H', W')."""
        require_shape(x, "R N C H W", "Conv2D")
        weights, k, pad = params["W"], self.kernel, self.padding
        if x.shape[2] != weights.shape[2]:
            raise ValueError(f"Conv2D has weights for C = {weights.shape[2]}, not {x.shape[2]}")
        _, n, c, *image = x.shape
        out = tuple(_out_size(size, k, self.stride, pad, "Conv2D") for size in image)
        pixels, kernel = channels_last(x), weights.transpose(0, 3, 4, 2, 1)
        y = channels_first(_correlate(pixels, kernel, (-pad, -pad), out, self.stride))
        if self.bias:
            rows = as_rows(y)
            rows += along_rows(params["b"], rows)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dpixels = channels_last(dy)
            dkernel = np.zeros((len(dy), k * k * c, self.channels), dy.dtype)
            for r, some, patches in _patches(pixels, kernel.shape[1:], (-pad, -pad), out, self.stride):
                r = r if len(x) == len(dy) else slice(None)
                part = dpixels[r, some]
                products = patches.swapaxes(1, 2) @ part.reshape(len(part), *patches.shape[:2], -1)
                dkernel[r] += products.sum(axis=1)
            dweights = dkernel.reshape(len(dy), k, k, c, self.channels).transpose(0, 4, 3, 1, 2)
            grads = {"W": np.ascontiguousarray(dweights)}
            if self.bias:
                grads["b"] = sum_per_feature(dy)
            if not need_dx:
                return NO_DX, grads
            # x[s q + a], padded, meets W[s t + i] for the t-th dy before the (q + o)-th, where s o + i = a + pad.
            dx = np.zeros((len(dy), n, *image, c), dy.dtype)
            back, s = kernel.swapaxes(3, 4), self.stride
            for a, b in itertools.product(range(s), repeat=2):
                (o, i), (o_, i_) = divmod(a + pad, s), divmod(b + pad, s)
                taps = back[:, i::s, i_::s][:, ::-1, ::-1]
                part = dx[:, :, a::s, b::s]
                if part.size and taps.size:
                    start = o + 1 - taps.shape[1], o_ + 1 - taps.shape[2]
                    _items(part)[...] = _items(_correlate(dpixels, taps, start, part.shape[2:4]))
            return channels_first(dx), grads

        return y, state, backward


@dataclass(frozen=True)
class _Pool2D(Layer):
    """Reduce windows of size × size pixels, ``stride`` apart (None: ``size``); those that do not fit are left out.

    Windows may reach ``padding`` pixels beyond the image on all sides, where there is nothing: what is reduced are the
    pixels within the image.
    """

    size: int
    stride: int | None = None
    padding: int = 0
    outside: ClassVar[float]
    """The value of a pixel beyond the image that changes nothing."""

    def __post_init__(self) -> None:
        """Check that every window has a pixel of the image."""
        require(0 <= self.padding < self.size, f"padding={self.padding}", f"at least 0 and below size={self.size}")

    @property
    def _step(self) -> int:
        return self.stride or self.size

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return no parameters and no state."""
        if len(in_shape) != 3:
            raise ValueError(f"{type(self).__name__} takes examples of shape (C, H, W), not {in_shape}")
        return {}, {}, (in_shape[0], *self._out(in_shape))

    def _out(self, shape: Shape) -> list[int]:
        name = type(self).__name__
        return [_out_size(size, self.size, self._step, self.padding, name) for size in shape[-2:]]

    def _windows(self, x: Array) -> Iterator[tuple[Any, ...]]:
        """Yield, for each pixel of a window in reading order, the index of it in all windows of (R, N, H, W, C)."""
        ends = [slice(i, i + self._step * out, self._step) for i in range(self.size) for out in self._out(x.shape)]
        for rows, columns in itertools.product(ends[::2], ends[1::2]):
            yield slice(None), slice(None), rows, columns

    def _around(self, x: Array, runs: int, fill: float) -> tuple[Array, Array]:
        """Return pixels (R, N, H, W, C) of one value, with the padding; and a view of those within the image."""
        _, examples, channels, height, width = x.shape
        pad = self.padding
        pixels = np.full((runs, examples, height + 2 * pad, width + 2 * pad, channels), fill, x.dtype)
        return pixels, pixels[:, :, pad : pad + height, pad : pad + width]

    def _gather(self, x: Array) -> list[Array]:
        """Copy x (R, N, C, H, W) into an array (R, N, H', W', C) for each pixel of a window."""
        items = _items(channels_last(x))
        if self.padding:
            pixels, within = self._around(x, len(x), self.outside)
            _items(within)[...] = items
            items = _items(pixels)
        return [items[index].copy()[..., np.newaxis].view(x.dtype) for index in self._windows(x)]

    def _scatter(self, shares: Iterable[Array], x: Array, dy: Array) -> tuple[Array, Arrays]:
        """Add up to dx what each pixel of a window gets of dy."""
        dx, within = self._around(x, len(dy), 0)
        for index, share in zip(self._windows(x), shares, strict=True):
            if self.size > self._step:
                dx[index] += share
            else:  # each pixel is in one window
                _items(dx)[index] = _items(share)
        return channels_first(np.ascontiguousarray(within)), {}


@dataclass(frozen=True)
class MaxPool2D(_Pool2D):
    """Take the largest pixel of each window. Of equals, the first in reading order takes the whole gradient."""

    outside = -math.inf

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Reduce x (R, N, C, H, W) to y (R, N, C, H', W')."""
        require_shape(x, "R N C H W", "MaxPool2D")
        pixels = self._gather(x)
        y = functools.reduce(np.maximum, pixels)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dy = channels_last(dy)

            def shares() -> Iterator[Array]:
                free = np.ones(y.shape, bool)
                for pixel in pixels:
                    largest = pixel == y
                    largest &= free
                    free ^= largest
                    yield dy * largest

            return self._scatter(shares(), x, dy)

        return channels_first(y), state, backward


@dataclass(frozen=True)
class AvgPool2D(_Pool2D):
    """Take the mean of the pixels of each window that are within the image: zeros beyond it do not count.

    So a 1 × 1 convolution gives the same before and after it, bias and all. (PyTorch: ``count_include_pad=False``.)
    """

    outside = 0.0

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Reduce x (R, N, C, H, W) to y (R, N, C, H', W')."""
        require_shape(x, "R N C H W", "AvgPool2D")
        pixels, count = self._gather(x), self._count(x)
        y = functools.reduce(np.add, pixels) / count

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            share = channels_last(dy) / count
            return self._scatter([share] * len(pixels), x, dy)

        return channels_first(y), state, backward

    def _count(self, x: Array) -> Array:
        """Return how many pixels of each window are within the image, (H', W', 1)."""
        begins = [self._step * np.arange(out) - self.padding for out in self._out(x.shape)]
        ends = zip(begins, x.shape[-2:], strict=True)
        high, wide = (np.minimum(b + self.size, size) - np.maximum(b, 0) for b, size in ends)
        count: Array = (high[:, np.newaxis] * wide)[..., np.newaxis].astype(x.dtype)
        return count


@dataclass(frozen=True)
class GlobalAvgPool2D(Layer):
    """Take the mean of each feature map: x (R, N, C, H, W) becomes y (R, N, C)."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return no parameters and no state."""
        if len(in_shape) != 3:
            raise ValueError(f"GlobalAvgPool2D takes examples of shape (C, H, W), not {in_shape}")
        return {}, {}, in_shape[:1]

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Average x over its pixels."""
        require_shape(x, "R N C H W", "GlobalAvgPool2D")
        runs, n, channels, height, width = x.shape
        area = height * width
        y = channels_last(x).reshape(runs, n, area, channels).sum(axis=2)
        y /= area

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx = np.empty((len(dy), n, height, width, channels), dy.dtype)
            dx[...] = (dy / area)[:, :, np.newaxis, np.newaxis]
            return channels_first(dx), {}

        return y, state, backward


@dataclass(frozen=True)
class Concatenate(Layer):
    """Put the channels of several inputs (R, N, C, H, W) side by side, or the features of several (R, N, D)."""

    def init(self, rng: np.random.Generator, in_shape: Any) -> tuple[Arrays, Arrays, Shape]:
        """Return no parameters and no state; ``in_shape`` is a tuple of shapes, equal but for the channels."""
        (_, *image), *others = in_shape
        if any(list(shape[1:]) != image for shape in others):
            raise ValueError(f"Concatenate takes examples of shapes that differ in channels alone, not {in_shape}")
        return {}, {}, (sum(shape[0] for shape in in_shape), *image)

    def forward(self, params: Arrays, state: Arrays, x: Any, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Concatenate a tuple of arrays; the gradients are a tuple, too."""
        for part in x:
            require_shape(part, "R N C H W" if part.ndim == 5 else "R N D", "Concatenate")
        of_images = x[0].ndim == 5
        parts = [channels_last(part) if of_images else np.ascontiguousarray(part) for part in x]
        sizes = [part.shape[-1] for part in parts]
        places = [slice(end - size, end) for end, size in zip(itertools.accumulate(sizes), sizes, strict=True)]
        y = np.empty((max(map(len, parts)), *parts[0].shape[1:-1], sum(sizes)), parts[0].dtype)
        for place, part in zip(places, parts, strict=True):
            _items(y[..., place])[...] = _items(part)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Any, Arrays]:
            dy = channels_last(dy) if of_images else np.ascontiguousarray(dy)
            gradients = []
            for place, size in zip(places, sizes, strict=True):
                gradients.append(np.empty((*dy.shape[:-1], size), dy.dtype))
                _items(gradients[-1])[...] = _items(dy[..., place])
            return tuple(map(channels_first, gradients) if of_images else gradients), {}

        return channels_first(y) if of_images else y, state, backward


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training y = x · mask / (1 − rate), where each unit is kept with probability 1 − rate.

    At inference y = x. Masks come from a counter-based stream of the run's own, kept in the state: forward is a pure
    function of it, and no other draw depends on whether there is dropout.
    """

    rate: float

    def __post_init__(self) -> None:
        """Check that the rate is at least 0 and below 1."""
        require(0 <= self.rate < 1, f"rate={self.rate}", "at least 0 and below 1")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return no parameters, and as state the key of the stream and the number of masks drawn."""
        (own,) = rng.spawn(1)  # leaves rng itself as it was
        return {}, {"key": own.integers(2**63, size=1), "drawn": np.zeros(1, np.int64)}, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Mask x (R or 1, N, ...) if ``train``."""
        if not train or self.rate == 0:
            return x, state, lambda dy, *, need_dx=True: (dy, {})
        mask = np.empty((len(state["key"]), *x.shape[1:]), x.dtype)
        for r, (key, drawn) in enumerate(zip(state["key"], state["drawn"], strict=True)):
            np.multiply(self.kept(key[0], drawn[0], x.shape[1:]), 1 / (1 - self.rate), out=mask[r])
        state = {"key": state["key"], "drawn": state["drawn"] + 1}
        return x * mask, state, lambda dy, *, need_dx=True: (dy * mask, {})

    def kept(self, key: int, drawn: int, shape: Shape) -> Array:
        """Tell which units (N, ...) mask number ``drawn`` of the stream ``key`` keeps."""
        stream = np.random.Philox(key=key, counter=[0, 0, 0, drawn])
        kept: Array = np.random.Generator(stream).random(shape, np.float32) >= self.rate
        return kept


def share_per_run(condition: Array) -> Array:
    """Return the share (R,) of the elements of a condition (R, ...) for which it holds."""
    share: Array = condition.reshape(len(condition), -1).mean(axis=1)
    return share


class Nonlinearity(Layer):
    """Base of the layers that act on each unit alone: no parameters, no state, y of x's shape.

    The network taps what enters them, and the diagnostics ask them which units no longer pass a gradient.
    """

    def inactive(self, x: Array) -> Array:
        """Return the share (R,) of what is saturated or dead on the inputs x (R, N, ...); NaN if not defined."""
        return np.full(len(x), np.nan)


@dataclass(frozen=True)
class Sigmoid(Nonlinearity):
    """y = 1 / (1 + exp(−x)). Where exp overflows, y is 0, as it should be."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply the sigmoid to each element; dx = dy · y (1 − y)."""
        y = np.negative(x)
        with np.errstate(over="ignore"):
            np.exp(y, out=y)  # NumPy's tanh takes twice as long
        y += 1
        np.divide(1, y, out=y)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx = 1 - y
            dx *= y
            dx *= dy
            return dx, {}

        return y, state, backward

    def inactive(self, x: Array) -> Array:
        """Return the share of outputs that are saturated: within 0.05 of 0 or 1, which is |x| > log 19."""
        return share_per_run(np.abs(x) > math.log(19))


@dataclass(frozen=True)
class Tanh(Nonlinearity):
    """y = tanh(x)."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply tanh to each element; dx = dy (1 − y²)."""
        y = np.tanh(x)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx = y * y
            np.subtract(1, dx, out=dx)
            dx *= dy
            return dx, {}

        return y, state, backward

    def inactive(self, x: Array) -> Array:
        """Return the share of outputs that are saturated: within 0.05 of ±1."""
        return share_per_run(np.abs(x) > math.atanh(0.95))


@dataclass(frozen=True)
class ReLU(Nonlinearity):
    """y = max(x, 0); the gradient at 0 is 0."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply max(x, 0) to each element."""
        examples = as_rows(x).reshape(*x.shape[:2], -1)
        y = np.maximum(examples, constant(0, examples.shape[2:], x.dtype))  # twice as fast as with the scalar 0
        y = from_rows(y, x.shape)
        return y, state, lambda dy, *, need_dx=True: (dy * (y > 0), {})

    def inactive(self, x: Array) -> Array:
        """Return the share of units that are dead: x ≤ 0 for every example."""
        dead: Array = np.all(x <= 0, axis=1)
        return share_per_run(dead)


def softmax_cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Return the cross-entropy of softmax(logits), and its gradient with respect to the logits.

    Args:
        logits: (R, N, K).
        targets: (R or 1, N, K), one-hot.

    Returns:
        The mean loss in nats over the N examples, (R,); and its gradient (softmax − targets) / N, (R, N, K).
        The largest logit is subtracted before exponentiating, so that none overflows.
    """
    # As (R, K, N): what runs over classes then takes whole rows at a time, and not ten neighbours.
    z, t = logits.swapaxes(1, 2).copy(), targets.swapaxes(1, 2).copy()
    z -= z.max(axis=1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=1, keepdims=True)
    examples = logits.shape[1]
    z *= t
    loss = (np.log(total) - z.sum(axis=1, keepdims=True)).sum(axis=(1, 2)) / examples
    total *= examples
    p /= total
    p -= t / examples
    return loss, p.swapaxes(1, 2)


def correct_predictions(logits: Array, labels: Array) -> Array:
    """Count the examples, (R,), whose largest logit, (R, N, K), is that of their label (N,)."""
    correct: Array = (logits.argmax(axis=2) == labels).sum(axis=1)
    return correct
