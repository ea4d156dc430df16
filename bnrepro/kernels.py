"""What the compiled engine compiles: products, elementary functions, the operations that layers are, training.

Its bits depend on nothing but the run: not on the group, the measurements, BLAS, the width of vectors or the machine.
Every element of a product is one chain of fused multiply-adds in the order of its sum; every other sum is in the order
of the examples, by blocks of ``BLOCK``, which keeps the rounding errors of equal terms from adding up; ``exp``, ``log``
and ``tanh`` are the ones of this module. Skipping a zero changes no bit, since fma(0, w, sum) is the sum for every
finite w; where weights or gradients leave a wide range, nothing is skipped.

Operations are rows of integers, which :func:`run` interprets. They work on one array of float32, the *arena*, that
holds the parameters of one run, their gradients, what the optimiser remembers, the moving averages and the activations.
Rows of matrices there, and pixels of images, whose channels stand side by side, are padded to whole vectors; ``width``
is a padded length. Compiled code is kept on the disk as long as this file does not change: so it takes no constant from
another, and all that is compiled stands here.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import extending
from numba.core import cgutils, types
from numba.core.event import Listener, install_listener

OLDEST = 0, 61
"""The version of Numba from which on all of this is known to work."""
if tuple(map(int, numba.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"Numba {numba.__version__} is older than {'.'.join(map(str, OLDEST))}")

F = np.float32
intrinsic: Any = extending.intrinsic  # whose types know nothing of the function that it makes
config: Any = numba.config  # whose fields are set as it is imported
LINE = 16
"""The floats in a line of the cache, to which rows are padded: a whole number of vectors on every machine."""

AVX512 = config.CPU_NAME in (None, binding.get_host_cpu_name()) and binding.get_host_cpu_features().get("avx512f")
LANES = 16 if AVX512 else 8
"""The floats in a vector of the machine; it changes no bit."""
PANELS = {1: 8, 2: 8, 4: 4, 7: 3} if AVX512 else {1: 8, 2: 4}
"""Vectors → rows of the tile of a product that is kept in registers."""
SPARSE_PANELS = (1, 2, 4, 7)
"""Vectors of a row that is a sum of rows."""

STORE, SUBTRACT, CONTINUE = map(np.int64, range(3))
"""What becomes of a sum: it is stored, subtracted from what is there, or goes on from what is there. (Python's own
integers would be types of their own to Numba, which compiled everything once for each.)"""
ONE = np.int64(1)
BLOCK = 64
"""The rows that are added up before they are added to the sum of those before."""

_inner = numba.njit(error_model="numpy")
"""Compiles a function as a part of those that call it."""


class _Announcement(Listener):
    """Says before the first compilation what it takes; nothing is compiled where it has been before."""

    told = False

    def on_start(self, event: Any) -> None:
        if not self.told:
            print("compiling, once on this machine: some 10 seconds", file=sys.stderr, flush=True)
        _Announcement.told = True

    def on_end(self, event: Any) -> None: ...


def _compiled_once(signature: Any) -> Callable[[Any], Any]:
    """Compile a function for arguments of these types, or load it from the machine's cache.

    Where no folder can be written, not even in the user's home, a cache is made for this process and its workers.
    """

    def compile_or_load(function: Any) -> Any:
        compiled = functools.partial(numba.njit, [signature], error_model="numpy", nogil=True)
        with install_listener("numba:compile", _Announcement()):
            try:
                return compiled(cache=True)(function)
            except RuntimeError:  # no folder for a cache
                config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="bnrepro-compiled-")
                atexit.register(shutil.rmtree, config.CACHE_DIR, ignore_errors=True)
                return compiled(cache=True)(function)

    return compile_or_load


# ── products: the only code that is written in LLVM's terms ────────────────────────────────────────────────────────


def _tile(rows: int, vectors: int, *, sparse: bool = False) -> Any:
    """Make c[i, j] = Σ_k a[i, k] b[k, j] for a tile of so many rows and vectors, kept in registers.

    Arguments are addresses, and strides in elements: a, from row to row, from k to k; b, from k to k; c, from row to
    row; how many k; and what becomes of the sum. A sparse tile is of one row and takes in place of the first three the
    addresses of values (uint8) and of the rows of b that belong to them (uint16), and what values are multiplied by.
    """
    scalar, wide, address = ir.FloatType(), ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)

    @intrinsic
    def tile(
        _: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, c: Any, c_row: Any, count: Any, end: Any
    ) -> Any:
        def generate(context: Any, build: Any, signature: Any, args: Any) -> Any:
            a, a_row, a_step, b, b_step, c, c_row, count, end = args
            name, kind = f"llvm.fma.v{LANES}f32", ir.FunctionType(wide, [wide] * 3)
            fma = cgutils.get_or_insert_function(build.module, kind, name)

            def at(start: Any, offset: Any, kind: Any, vector: int = 0) -> Any:
                element = kind.element if isinstance(kind, ir.VectorType) else kind
                pointer = build.gep(build.inttoptr(start, element.as_pointer()), [offset])
                pointer = build.gep(pointer, [address(LANES * vector)])
                return build.bitcast(pointer, kind.as_pointer())

            def load(start: Any, offset: Any, kind: Any, vector: int = 0) -> Any:
                return build.load(at(start, offset, kind, vector), align=4 if kind in (scalar, wide) else 1)

            def splat(value: Any) -> Any:
                first = build.insert_element(ir.Constant(wide, ir.Undefined), value, ir.IntType(32)(0))
                return build.shuffle_vector(
                    first, first, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                )

            tiled = [(i, j) for i in range(rows) for j in range(vectors)]
            goes_on = build.icmp_signed("==", end, address(CONTINUE))
            outputs = {(i, j): at(c, build.mul(c_row, address(i)), wide, j) for i, j in tiled}
            sums = {ij: cgutils.alloca_once(build, wide) for ij in tiled}
            with build.if_else(goes_on) as (going_on, anew):
                with going_on:
                    for ij in tiled:
                        build.store(build.load(outputs[ij], align=4), sums[ij])
                with anew:
                    for ij in tiled:
                        build.store(ir.Constant(wide, [0.0] * LANES), sums[ij])
            with cgutils.for_range(build, count, intp=address) as loop:
                if sparse:
                    value = build.uitofp(load(a, loop.index, ir.IntType(8)), scalar)
                    factors = [splat(build.fmul(value, a_step))]
                    row = build.zext(load(a_row, loop.index, ir.IntType(16)), address)
                else:
                    steps = build.mul(loop.index, a_step)
                    factors = [
                        splat(load(a, build.add(build.mul(a_row, address(i)), steps), scalar)) for i in range(rows)
                    ]
                    row = loop.index
                for j in range(vectors):
                    term = load(b, build.mul(row, b_step), wide, j)
                    for i in range(rows):
                        build.store(build.call(fma, [factors[i], term, build.load(sums[i, j])]), sums[i, j])
            subtracts = build.icmp_signed("==", end, address(SUBTRACT))
            with build.if_else(subtracts) as (subtracting, storing):
                with subtracting:
                    for ij in tiled:
                        before = build.load(outputs[ij], align=4)
                        build.store(build.fsub(before, build.load(sums[ij])), outputs[ij], align=4)
                with storing:
                    for ij in tiled:
                        build.store(build.load(sums[ij]), outputs[ij], align=4)
            return context.get_dummy_value()

        third = types.float32 if sparse else types.intp
        return types.void(types.intp, types.intp, third, *[types.intp] * 6), generate

    return tile


@_inner
def _address(x):
    return np.int64(x.ctypes.data)


_product = _inner(lambda a, a_row, a_step, b, b_step, c, c_row, m, count, width, end: None)
_row_sums = _inner(lambda listed, b, b_step, c, c_row, width, end: None)


def _with_panel(vectors: int, rows: int, narrower: Any) -> Any:
    """Make a product c = a b, of m rows and ``width`` columns, by panels that wide, and by narrower ones the rest."""
    block, single, columns = _tile(rows, vectors), _tile(1, vectors), vectors * LANES

    @_inner
    def product(a, a_row, a_step, b, b_step, c, c_row, m, count, width, end):
        while width >= columns:
            i = 0
            while i + rows <= m:
                block(a + 4 * i * a_row, a_row, a_step, b, b_step, c + 4 * i * c_row, c_row, count, end)
                i += rows
            while i < m:
                single(a + 4 * i * a_row, a_row, a_step, b, b_step, c + 4 * i * c_row, c_row, count, end)
                i += 1
            b, c, width = b + 4 * columns, c + 4 * columns, width - columns
        narrower(a, a_row, a_step, b, b_step, c, c_row, m, count, width, end)

    return product


def _with_sparse_panel(vectors: int, narrower: Any) -> Any:
    """Make row sums c[i] = Σ values[p] scale b[index[p]] over p from first[i] to last[i], likewise.

    ``listed`` is the tuple (values, index, scale, first, last).
    """
    tile, columns = _tile(1, vectors, sparse=True), vectors * LANES

    @_inner
    def row_sums(listed, b, b_step, c, c_row, width, end):
        values, index, scale, first, last = listed
        while width >= columns:
            for i in range(len(first)):
                p, count = first[i], last[i] - first[i]
                if count > 0 or end == STORE:
                    value, row = _address(values) + p, _address(index) + 2 * p
                    tile(value, row, scale, b, b_step, c + 4 * i * c_row, c_row, count, end)
            b, c, width = b + 4 * columns, c + 4 * columns, width - columns
        narrower(listed, b, b_step, c, c_row, width, end)

    return row_sums


for _vectors, _rows in PANELS.items():
    _product = _with_panel(_vectors, _rows, _product)
for _vectors in SPARSE_PANELS:
    _row_sums = _with_sparse_panel(_vectors, _row_sums)

# ── elementary functions: NumPy's and the system's have other bits on other machines ───────────────────────────────


@intrinsic
def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once."""
    return types.float32(*[types.float32] * 3), lambda context, build, signature, args: build.fma(*args)


LOG2_E, LN_2 = F(1.4426950408889634), F(0.6931471805599453)
LN_2_REST = F(0.6931471805599453 - float(LN_2))
ROUND = F(1.5 * 2**23)
"""A float that has no digits behind the point: what is added to it is rounded to an integer."""


@_inner
def _power_and_rest(x):
    """Return k and exp(r) − 1 for x = k log 2 + r, |r| ≤ ½ log 2, by Taylor's series up to r⁷/7!, below an ulp off."""
    x = F(89) if x > F(89) else x  # NaN stays
    x = F(-104) if x < F(-104) else x
    k = (x * LOG2_E + ROUND) - ROUND
    r = _fma(k, -LN_2_REST, _fma(k, -LN_2, x))
    series = _fma(r, F(1 / 5040), F(1 / 720))
    series = _fma(r, series, F(1 / 120))
    series = _fma(r, series, F(1 / 24))
    series = _fma(r, series, F(1 / 6))
    series = _fma(r, series, F(1 / 2))
    return np.int32(k), _fma(r * r, series, r)


@_inner
def _power_of_two(k):
    return np.int32((k + np.int32(127)) << np.int32(23)).view(np.float32)


@_inner
def _exp(x):
    k, rest = _power_and_rest(x)
    half = k >> np.int32(1)  # 2^k itself may be out of range
    return (F(1) + rest) * _power_of_two(half) * _power_of_two(k - half)


@_inner
def _tanh(x):
    x = F(10) if x > F(10) else x
    x = F(-10) if x < F(-10) else x
    k, rest = _power_and_rest(F(2) * x)
    power = _power_of_two(k)
    above_one = _fma(power, rest, power - F(1))  # exp(2x) − 1, to its own last digits
    return above_one / (above_one + F(2))


@_inner
def _log(x):
    """Return log x for x ≥ 1, and NaN for NaN: x = 2^k m, log m = 2 artanh((m − 1)/(m + 1)), by its series to s⁹."""
    bits = F(x).view(np.int32)
    k = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # √½ ≤ m < √2
    m = np.int32(bits - (k << np.int32(23))).view(np.float32)
    s = (m - F(1)) / (m + F(1))
    z = s * s
    series = _fma(z, F(1 / 9), F(1 / 7))
    series = _fma(z, series, F(1 / 5))
    series = _fma(z, series, F(1 / 3))
    series = _fma(z, series, F(1))
    return _fma(F(k), LN_2, F(2) * s * series) if x == x else x


# ── operations ─────────────────────────────────────────────────────────────────────────────────────────────────────

DENSE, CONV, MAX_POOL, MEAN_POOL, NORM, SIGMOID, RELU, TANH, DROPOUT, CONCATENATE = range(10)
"""What an operation is; its other fields follow. Offsets count floats of the arena, and −1 stands for none."""
CODE, X, X_WIDTH, SIZE_IN, HEIGHT_IN, BREADTH_IN, Y, WIDTH, SIZE, HEIGHT, BREADTH, DX, DY = range(13)
PARAMS, BIAS, STATE, CONSTANTS, SCRATCH, TAP, KERNEL_HEIGHT, KERNEL_BREADTH, STRIDE, PAD = range(13, 23)
AT_ONCE, BORDERED, CENTRED, PLACE, ADDS, FIELDS = range(23, 29)

TRAIN, PREDICT, FORWARD, BACKWARD = range(4)
PLAIN, MOMENTUM, ADAGRAD = range(3)

WIDE_RANGE = F(1e25)
"""The largest gradient, times the learning rate, with which zeros may be skipped. After 10¹² such updates weights are
still finite, and so is every product with them."""


@_inner
def _within_range(x):
    found = True
    for i in range(len(x)):
        found &= abs(x[i]) <= WIDE_RANGE
    return found


@_inner
def _dense(f, op, n, sparse, listed):
    """Multiply rows by W; a kernel of one pixel does that to the channels of each pixel."""
    base, width, x_width = _address(f), op[WIDTH], op[X_WIDTH]
    weights, y, rows = base + 4 * op[PARAMS], base + 4 * op[Y], n * op[HEIGHT] * op[BREADTH]
    if sparse:
        _row_sums(listed, weights, width, y, width, width, STORE)
    else:
        _product(base + 4 * op[X], x_width, ONE, weights, width, y, width, rows, op[SIZE_IN], width, STORE)
    _add_bias(f, op, rows)


@_inner
def _dense_backward(f, op, n, end, gradients, sparse, listed):
    base, width, x_width = _address(f), op[WIDTH], op[X_WIDTH]
    dy, rows = base + 4 * op[DY], n * op[HEIGHT] * op[BREADTH]
    if op[DX] >= 0:  # dx = dy Wᵀ
        size, turned = op[SIZE], base + 4 * op[SCRATCH]
        _transpose(f, op[PARAMS], op[SIZE_IN], width, op[SCRATCH], size, x_width)
        then = CONTINUE if op[ADDS] else STORE
        _product(dy, width, ONE, turned, x_width, base + 4 * op[DX], x_width, rows, size, x_width, then)
    target = base + 4 * (op[PARAMS] + (0 if end == SUBTRACT else gradients))
    if sparse:
        _row_sums(listed, dy, width, target, width, width, end)
    else:
        _product(base + 4 * op[X], ONE, x_width, dy, width, target, width, op[SIZE_IN], rows, width, end)
    _add_bias_backward(f, op, rows, end, gradients)


@_inner
def _add_bias(f, op, rows):
    if op[BIAS] >= 0:
        width = op[WIDTH]
        y, b = f[op[Y] : op[Y] + rows * width].reshape(rows, width), f[op[BIAS] : op[BIAS] + width]
        for i in range(rows):
            for j in range(width):
                y[i, j] += b[j]


@_inner
def _add_bias_backward(f, op, rows, end, gradients):
    if op[BIAS] >= 0:
        width, begin = op[WIDTH], op[BIAS] + (0 if end == SUBTRACT else gradients)
        _row_sum(f[op[DY] : op[DY] + rows * width].reshape(rows, width), f[begin : begin + width], end)


@_inner
def _transpose(f, of, rows, width, to, columns, to_width):
    w, turned = f[of : of + rows * width].reshape(rows, width), f[to : to + columns * to_width]
    turned = turned.reshape(columns, to_width)
    for j in range(columns):
        for i in range(rows):
            turned[j, i] = w[i, j]


@_inner
def _with_border(f, op, image):
    """Return where an image begins, copied into the middle of zeros if there is padding, and how broad it then is."""
    height, breadth, width, pad = op[HEIGHT_IN], op[BREADTH_IN], op[X_WIDTH], op[PAD]
    begin = op[X] + image * height * breadth * width
    if pad == 0:
        return begin, breadth
    broad, run = breadth + 2 * pad, breadth * width
    for i in range(height):
        to = op[SCRATCH] + ((i + pad) * broad + pad) * width
        _copy(f[begin + i * run : begin + (i + 1) * run], f[to : to + run])
    return op[SCRATCH], broad


@_inner
def _conv(f, op, n):
    """Correlate images with W (K, K', C, F), row by row of windows: at each place of the kernel, a product.

    Where pixels follow each other without a gap, a row of the kernel is one product. A kernel as large as the image,
    which has one window, takes the images for rows.
    """
    base, width, x_width = _address(f), op[WIDTH], op[X_WIDTH]
    high, broad, stride, at_once = op[KERNEL_HEIGHT], op[KERNEL_BREADTH], op[STRIDE], op[AT_ONCE]
    height, breadth, count = op[HEIGHT], op[BREADTH], op[AT_ONCE] * op[SIZE_IN]
    whole = height == 1 and breadth == 1 and op[PAD] == 0
    for image in range(1 if whole else n):
        begin, across = _with_border(f, op, image)
        step = op[HEIGHT_IN] * op[BREADTH_IN] * x_width if whole else stride * x_width
        for p in range(height):
            y, end = base + 4 * (op[Y] + (image * height + p) * breadth * width), STORE
            for i in range(high):
                for j in range(0, broad, at_once):
                    x = base + 4 * (begin + ((p * stride + i) * across + j) * x_width)
                    w = base + 4 * (op[PARAMS] + (i * broad + j) * x_width * width)
                    _product(x, step, ONE, w, width, y, width, n if whole else breadth, count, width, end)
                    end = CONTINUE
    _add_bias(f, op, n * height * breadth)


@_inner
def _conv_backward(f, op, n, end, gradients):
    base, width, x_width = _address(f), op[WIDTH], op[X_WIDTH]
    high, broad, stride, at_once = op[KERNEL_HEIGHT], op[KERNEL_BREADTH], op[STRIDE], op[AT_ONCE]
    height, breadth, kernel = op[HEIGHT], op[BREADTH], x_width * width
    whole = height == 1 and breadth == 1 and op[PAD] == 0
    if op[DX] >= 0:
        _conv_dx(f, op, n, whole)
    for image in range(1 if whole else n):
        begin, across = _with_border(f, op, image)
        step = op[HEIGHT_IN] * op[BREADTH_IN] * x_width if whole else stride * x_width
        for p in range(height):
            dy = base + 4 * (op[DY] + (image * height + p) * breadth * width)
            then = STORE if image == 0 and p == 0 else CONTINUE
            for i in range(high):
                for j in range(0, broad, at_once):
                    x = base + 4 * (begin + ((p * stride + i) * across + j) * x_width)
                    dw = base + 4 * (op[PARAMS] + gradients + (i * broad + j) * kernel)
                    rows = at_once * op[SIZE_IN]
                    _product(x, ONE, step, dy, width, dw, width, rows, n if whole else breadth, width, then)
    if end == SUBTRACT:
        size, begin = high * broad * kernel, op[PARAMS]
        w, dw = f[begin : begin + size], f[begin + gradients : begin + gradients + size]
        for i in range(size):
            w[i] -= dw[i]
    _add_bias_backward(f, op, n * height * breadth, end, gradients)


@_inner
def _conv_dx(f, op, n, whole):
    """Add to the pixels of dx what each window that has them gives, place by place of the kernel."""
    base, width, x_width, size = _address(f), op[WIDTH], op[X_WIDTH], op[SIZE]
    high, broad, stride, pad = op[KERNEL_HEIGHT], op[KERNEL_BREADTH], op[STRIDE], op[PAD]
    height_in, breadth_in, height, breadth = op[HEIGHT_IN], op[BREADTH_IN], op[HEIGHT], op[BREADTH]
    turned = op[SCRATCH] + op[BORDERED]
    for place in range(high * broad):
        of, to = op[PARAMS] + place * x_width * width, turned + place * size * x_width
        _transpose(f, of, op[SIZE_IN], width, to, size, x_width)
    image_size = height_in * breadth_in * x_width
    if not op[ADDS]:
        _clear(f[op[DX] : op[DX] + n * image_size])
    for image in range(1 if whole else n):
        for p in range(height):
            for i in range(high):
                row = p * stride + i - pad
                if row < 0 or row >= height_in:
                    continue
                for j in range(broad):
                    # The windows q whose pixel q · stride + j − pad is in the image.
                    first = max(0, (pad - j + stride - 1) // stride)
                    last = min(breadth, (breadth_in - 1 + pad - j) // stride + 1)
                    dy = base + 4 * (op[DY] + ((image * height + p) * breadth + first) * width)
                    to = op[DX] + image * image_size + (row * breadth_in + first * stride + j - pad) * x_width
                    step, rows = (image_size, n) if whole else (stride * x_width, last - first)
                    w = base + 4 * (turned + (i * broad + j) * size * x_width)
                    _product(dy, width, ONE, w, x_width, base + 4 * to, step, rows, size, x_width, CONTINUE)


@_inner
def _window(op, p, q):
    """Return the first and last rows and columns of a window's pixels that are within the image."""
    row, column = p * op[STRIDE] - op[PAD], q * op[STRIDE] - op[PAD]
    bottom, right = min(row + op[KERNEL_HEIGHT], op[HEIGHT_IN]), min(column + op[KERNEL_BREADTH], op[BREADTH_IN])
    return max(row, 0), bottom, max(column, 0), right


@_inner
def _pool(f, op, n):
    """Reduce the pixels of each window to their mean, or to their largest, and remember the first such."""
    width, window = op[WIDTH], 0
    for image in range(n):
        for p in range(op[HEIGHT]):
            for q in range(op[BREADTH]):
                y = f[op[Y] + window : op[Y] + window + width]
                place = f[op[SCRATCH] + window : op[SCRATCH] + window + width]
                window += width
                top, bottom, left, right = _window(op, p, q)
                k = 0
                for row in range(top, bottom):
                    for column in range(left, right):
                        begin = op[X] + ((image * op[HEIGHT_IN] + row) * op[BREADTH_IN] + column) * width
                        x = f[begin : begin + width]
                        for c in range(width):
                            if op[CODE] == MEAN_POOL:
                                y[c] = x[c] if k == 0 else y[c] + x[c]
                            else:
                                larger = k == 0 or not x[c] <= y[c]  # of NaN, the last
                                place[c] = F(k) if larger else place[c]
                                y[c] = x[c] if larger else y[c]
                        k += 1
                if op[CODE] == MEAN_POOL:
                    for c in range(width):
                        y[c] /= F(k)


@_inner
def _pool_backward(f, op, n):
    width, window = op[WIDTH], 0
    dx = f[op[DX] : op[DX] + n * op[HEIGHT_IN] * op[BREADTH_IN] * width]
    if not op[ADDS]:
        _clear(dx)
    for image in range(n):
        for p in range(op[HEIGHT]):
            for q in range(op[BREADTH]):
                top, bottom, left, right = _window(op, p, q)
                broad, area = right - left, F((bottom - top) * (right - left))
                begin = ((image * op[HEIGHT_IN] + top) * op[BREADTH_IN] + left) * width
                dy = f[op[DY] + window : op[DY] + window + width]
                if op[CODE] == MAX_POOL:
                    for c in range(width):
                        k = np.int64(f[op[SCRATCH] + window + c])
                        dx[begin + (k // broad * op[BREADTH_IN] + k % broad) * width + c] += dy[c]
                else:
                    for row in range(bottom - top):
                        for column in range(broad):
                            at = begin + (row * op[BREADTH_IN] + column) * width
                            for c in range(width):
                                dx[at + c] += dy[c] / area
                window += width


@_inner
def _concatenate(f, op, n):
    """Copy the channels of one input to where they begin in the output."""
    for pixel in range(n * op[HEIGHT] * op[BREADTH]):
        x, y = op[X] + pixel * op[X_WIDTH], op[Y] + pixel * op[WIDTH] + op[PLACE]
        _copy(f[x : x + op[SIZE_IN]], f[y : y + op[SIZE_IN]])


@_inner
def _concatenate_backward(f, op, n):
    size, width = op[SIZE_IN], op[X_WIDTH]
    for pixel in range(n * op[HEIGHT] * op[BREADTH]):
        dx = f[op[DX] + pixel * width : op[DX] + (pixel + 1) * width]
        dy = op[DY] + pixel * op[WIDTH] + op[PLACE]
        if not op[ADDS]:
            _clear(dx)
        for c in range(size):
            dx[c] += f[dy + c]


@_inner
def _row_sum(rows, total, end):
    width = len(total)
    sums, part = np.zeros(width, F), np.empty(width, F)
    for begin in range(0, len(rows), BLOCK):
        _clear(part)
        for i in range(begin, min(begin + BLOCK, len(rows))):
            for j in range(width):
                part[j] += rows[i, j]
        for j in range(width):
            sums[j] += part[j]
    for j in range(width):
        total[j] = total[j] - sums[j] if end == SUBTRACT else sums[j]


@_inner
def _clear(x):
    for i in range(len(x)):
        x[i] = F(0)


@_inner
def _copy(x, y):
    for i in range(len(x)):
        y[i] = x[i]


@_inner
def _norm(f, op, n, train):
    """Normalise as :class:`bnrepro.batchnorm.BatchNorm` does. In training c = x − μ is in the place ``CENTRED``."""
    width, state, constants = op[WIDTH], op[STATE], op[CONSTANTS]
    n *= op[HEIGHT] * op[BREADTH]
    if op[CENTRED] != op[X]:
        _copy(f[op[X] : op[X] + n * width], f[op[CENTRED] : op[CENTRED] + n * width])
    x, y = f[op[CENTRED] : op[CENTRED] + n * width].reshape(n, width), f[op[Y] : op[Y] + n * width].reshape(n, width)
    gamma, beta = f[op[PARAMS] : op[PARAMS] + width], f[op[BIAS] : op[BIAS] + width]
    mean, var = f[state : state + width], f[state + width : state + 2 * width]
    updates = f[state + 2 * width : state + 2 * width + 1]
    slope, s = f[op[SCRATCH] : op[SCRATCH] + width], f[op[SCRATCH] + width : op[SCRATCH] + 2 * width]
    shift = np.empty(width, F)
    eps, momentum, by_batch = f[constants], f[constants + 1], f[constants + 2] > 0
    if train or by_batch:
        center, rest, square = np.empty(width, F), np.zeros(width, F), np.zeros(width, F)
        part, m = np.empty(width, F), F(n)
        _row_sum(x, center, STORE)
        for j in range(width):
            center[j] /= m
        for begin in range(0, n, BLOCK):
            _clear(part)
            for i in range(begin, min(begin + BLOCK, n)):
                for j in range(width):
                    x[i, j] -= center[j]
                    part[j] += x[i, j]
            for j in range(width):
                rest[j] += part[j]
        for j in range(width):
            rest[j] /= m  # what rounding has left, where μ is far larger than σ
        for begin in range(0, n, BLOCK):
            _clear(part)
            for i in range(begin, min(begin + BLOCK, n)):
                for j in range(width):
                    x[i, j] -= rest[j]
                    part[j] += x[i, j] * x[i, j]
            for j in range(width):
                square[j] += part[j]
        for j in range(width):
            square[j] /= m
            s[j] = F(1) / np.sqrt(square[j] + eps)
            slope[j] = gamma[j] * s[j]
            shift[j] = beta[j]
        if train:
            updates[0] = momentum * updates[0] + F(1)
            weight = F(1) / updates[0]
            kept, unbiased = F(1) - weight, weight * (m / (m - F(1)))
            for j in range(width):
                mean[j] = weight * (center[j] + rest[j]) + kept * mean[j]
                var[j] = unbiased * square[j] + kept * var[j]
    else:
        for j in range(width):
            slope[j] = gamma[j] / np.sqrt(var[j] + eps)
            shift[j] = beta[j] - slope[j] * mean[j]
    for j in range(op[SIZE], width):
        slope[j], shift[j] = F(0), F(0)  # where eps = 0, they would be infinite
    for i in range(n):
        for j in range(width):
            y[i, j] = x[i, j] * slope[j] + shift[j]


@_inner
def _norm_backward(f, op, n, end, gradients):
    width = op[WIDTH]
    n *= op[HEIGHT] * op[BREADTH]
    c, dy = f[op[CENTRED] : op[CENTRED] + n * width].reshape(n, width), f[op[DY] : op[DY] + n * width].reshape(n, width)
    slope, s = f[op[SCRATCH] : op[SCRATCH] + width], f[op[SCRATCH] + width : op[SCRATCH] + 2 * width]
    moved = 0 if end == SUBTRACT else gradients
    gamma, beta = f[op[PARAMS] + moved : op[PARAMS] + moved + width], f[op[BIAS] + moved : op[BIAS] + moved + width]
    dbeta, dgamma, part = np.empty(width, F), np.zeros(width, F), np.empty(width, F)
    tilt, shift = np.empty(width, F), np.empty(width, F)
    m = F(n)
    _row_sum(dy, dbeta, STORE)
    for begin in range(0, n, BLOCK):
        _clear(part)
        for i in range(begin, min(begin + BLOCK, n)):
            for j in range(width):
                part[j] += dy[i, j] * c[i, j]
        for j in range(width):
            dgamma[j] += part[j]
    for j in range(width):
        dgamma[j] *= s[j]
        tilt[j] = dgamma[j] * s[j] / m
        shift[j] = dbeta[j] / m
        gamma[j] = gamma[j] - dgamma[j] if end == SUBTRACT else dgamma[j]
        beta[j] = beta[j] - dbeta[j] if end == SUBTRACT else dbeta[j]
    for i in range(n):
        for j in range(width):
            dy[i, j] = (dy[i, j] - (c[i, j] * tilt[j] + shift[j])) * slope[j]


@_inner
def _activate(y, code):
    if code == SIGMOID:
        for i in range(len(y)):
            y[i] = F(1) / (_exp(-y[i]) + F(1))
    elif code == RELU:
        for i in range(len(y)):
            y[i] = F(0) if y[i] <= F(0) else y[i]  # NaN stays
    else:
        for i in range(len(y)):
            y[i] = _tanh(y[i])


@_inner
def _activate_backward(y, dy, code):
    if code == SIGMOID:
        for i in range(len(y)):
            dy[i] = (F(1) - y[i]) * y[i] * dy[i]
    elif code == RELU:
        for i in range(len(y)):
            dy[i] = dy[i] * (F(1) if y[i] > F(0) else F(0))
    else:
        for i in range(len(y)):
            dy[i] = (F(1) - y[i] * y[i]) * dy[i]


@_inner
def _mask(x, y, kept, mask):
    for i in range(len(x)):
        y[i] = x[i] * (kept * F(mask[i]))


@_inner
def _forward(ops, f, n, train, masks, sparse, listed):
    drawn = 0
    for o in range(len(ops)):
        op = ops[o]
        code, count = op[CODE], n * op[HEIGHT] * op[BREADTH] * op[WIDTH]
        x, y = f[op[X] : op[X] + count], f[op[Y] : op[Y] + count]
        if code == DENSE:
            _dense(f, op, n, sparse and o == 0, listed)
        elif code == CONV:
            _conv(f, op, n)
        elif code in (MAX_POOL, MEAN_POOL):
            _pool(f, op, n)
        elif code == CONCATENATE:
            _concatenate(f, op, n)
        elif code == NORM:
            _norm(f, op, n, train)
        elif code == DROPOUT:
            if train:
                _mask(x, y, f[op[CONSTANTS]], masks[drawn : drawn + count])
                drawn += count
            else:
                _copy(x, y)
        else:
            if op[TAP] >= 0:
                _copy(x, f[op[TAP] : op[TAP] + count])
            if op[X] != op[Y]:
                _copy(x, y)
            _activate(y, code)


@_inner
def _backward(ops, f, n, end, gradients, masks, sparse, listed):
    """Go back from the gradient of the logits, and tell whether zeros may still be skipped."""
    drawn = len(masks)
    for o in range(len(ops) - 1, -1, -1):
        op = ops[o]
        code, count = op[CODE], n * op[HEIGHT] * op[BREADTH] * op[WIDTH]
        drawn -= count if code == DROPOUT else 0
        if op[DY] < 0:  # nothing that is trained comes before it
            continue
        y, dy = f[op[Y] : op[Y] + count], f[op[DY] : op[DY] + count]
        if code == DENSE:
            if o == 0 and sparse and not _within_range(dy):
                sparse = False
                _scatter(f[op[X] : op[X] + n * op[X_WIDTH]].reshape(n, op[X_WIDTH]), listed)
            _dense_backward(f, op, n, end, gradients, sparse and o == 0, listed)
        elif code == CONV:
            _conv_backward(f, op, n, end, gradients)
        elif code in (MAX_POOL, MEAN_POOL):
            if op[DX] >= 0:
                _pool_backward(f, op, n)
        elif code == CONCATENATE:
            if op[DX] >= 0:
                _concatenate_backward(f, op, n)
        elif code == NORM:
            _norm_backward(f, op, n, end, gradients)
        elif code == DROPOUT:
            _mask(dy, dy, f[op[CONSTANTS]], masks[drawn : drawn + count])
        else:
            _activate_backward(y, dy, code)
    return sparse


@_inner
def _cross_entropy(z, classes, labels, factor, dz):
    """Return the mean cross-entropy in nats, and put its gradient times ``factor`` into dz."""
    n = len(z)
    loss = F(0)
    for i in range(n):
        top = z[i, 0]
        for k in range(1, classes):
            top = max(top, z[i, k])
        hit = z[i, labels[i]] - top
        total = F(0)
        for k in range(classes):
            dz[i, k] = _exp(z[i, k] - top)
            total += dz[i, k]
        loss += _log(total) - hit
        share = factor / (total * F(n))
        for k in range(classes):
            dz[i, k] *= share
        for k in range(classes, z.shape[1]):
            dz[i, k] = F(0)
        dz[i, labels[i]] -= factor / F(n)
    return loss / F(n)


@_inner
def _update(f, segments, gradients, optimizer, hyper, lr):
    """Move the parameters by their gradients, as the classes of :mod:`bnrepro.optim` do."""
    momentum, eps, decay, _ = hyper
    for segment in range(len(segments)):
        begin, end, decays = segments[segment]
        p, g = f[begin:end], f[begin + gradients : end + gradients]
        state = f[begin + 2 * gradients : end + 2 * gradients]
        rate = decay if decays else F(0)
        if optimizer == ADAGRAD:
            for i in range(len(p)):
                step = g[i] + rate * p[i]
                state[i] += step * step
                p[i] -= lr * step / (np.sqrt(state[i]) + eps)
        elif optimizer == MOMENTUM:
            for i in range(len(p)):
                state[i] = momentum * state[i] - (g[i] + rate * lr * p[i])
                p[i] += state[i]
        else:
            for i in range(len(p)):
                p[i] -= g[i] + rate * lr * p[i]


@_inner
def _gather(images, chosen, mean, scale, x):
    """Put the chosen images, channel by channel, into rows that have the channels of a pixel side by side."""
    pixels = x.shape[1]
    for i in range(len(chosen)):
        image = images[chosen[i]]
        if pixels == 1:
            row = x[i, 0]
            for j in range(len(image)):
                row[j] = (F(image[j]) - mean[j]) * scale[j]
        else:
            for c in range(len(image) // pixels):
                for p in range(pixels):
                    j = c * pixels + p
                    x[i, p, c] = (F(image[j]) - mean[j]) * scale[j]


@_inner
def _scatter(x, listed):
    values, index, scale, first, last = listed
    for i in range(len(x)):
        for j in range(x.shape[1]):
            x[i, j] = F(0)
    for j in range(len(first)):
        for p in range(first[j], last[j]):
            x[index[p], j] = F(values[p]) * scale


@_inner
def _lists_of(chosen, bounds):
    """Return where the lists of these examples begin and end; of dense images there are none."""
    if len(bounds) == 0:
        return bounds, bounds
    return bounds[chosen], bounds[chosen + 1]


@_inner
def _predict(ops, f, n, training, x, logits, images, mean, scale, labels, chosen, mask, sparse, values, index, bounds):
    """Count the examples whose largest logit, the first of equals, is that of their label."""
    correct, classes = 0, ops[-1][SIZE]
    for begin in range(0, len(chosen), n):
        part = chosen[begin : begin + n]
        if not sparse:
            _gather(images, part, mean, scale, x)
        first, last = _lists_of(part, bounds)
        _forward(ops, f, len(part), training, mask, sparse, (values, index, scale[0], first, last))
        for i in range(len(part)):
            best = 0
            for k in range(1, classes):
                # As NumPy's argmax has it, NaN is the largest of all.
                if logits[i, k] > logits[i, best] or (
                    logits[i, k] != logits[i, k] and logits[i, best] == logits[i, best]
                ):
                    best = k
            correct += best == labels[part[i]]
    return correct


_FLOATS, _BYTES = types.float32[::1], types.uint8[::1]
_IMAGES, _LABELS = (types.Array(types.uint8, ndim, "C", readonly=True) for ndim in (2, 1))
_LISTS = (_BYTES, types.uint16[::1], types.int64[::1])


@_compiled_once(
    types.int64(
        *(types.int64, types.int64[:, ::1], _FLOATS, types.int64, types.int64, types.boolean),  # what, in which arena
        *(types.int64[:, ::1], types.int64, types.UniTuple(types.float32, 4), _FLOATS, _FLOATS),  # optimiser, losses
        *(
            *(_IMAGES, _FLOATS, _FLOATS),  # images, what is subtracted from a pixel, what it is multiplied by
            *(_LABELS, types.int64[:, ::1], types.uint8[:, ::1]),  # labels, mini-batches, masks
        ),
        *(*_LISTS, *_LISTS[:2], types.int64[:, ::1]),  # values that are not 0: of each image, of each pixel
    ),
)
def run(
    task, ops, f, n, gradients, training,
    segments, optimizer, hyper, lr, losses,
    images, mean, scale, labels, batches, masks,
    values, index, bounds, pixel_values, pixel_index, pixel_bounds,
):  # fmt: skip
    """Do a task with the arena ``f``, on n examples at a time.

    TRAIN: train on ``batches`` until the loss is out of range, and return the steps done. PREDICT: return how many
    labels of all examples in ``batches`` are predicted. FORWARD and BACKWARD: go through the layers with what is in the
    arena.
    """
    begin, end = ops[0], ops[-1]
    sparse = len(bounds) > 0
    if sparse:
        sparse = _within_range(f[begin[PARAMS] : begin[PARAMS] + begin[SIZE_IN] * begin[WIDTH]])
    logits = f[end[Y] : end[Y] + n * end[WIDTH]].reshape(n, end[WIDTH])
    pixels = begin[HEIGHT_IN] * begin[BREADTH_IN]
    x = f[begin[X] : begin[X] + n * pixels * begin[X_WIDTH]].reshape(n, pixels, begin[X_WIDTH])
    if task == FORWARD:
        _forward(ops, f, n, training, masks[0], sparse, (values, index, F(1), bounds, bounds))
    elif task == BACKWARD:
        _backward(ops, f, n, STORE, gradients, masks[0], sparse, (values, index, F(1), bounds, bounds))
    elif task == PREDICT:
        return _predict(
            ops,
            f,
            n,
            training,
            x,
            logits,
            images,
            mean,
            scale,
            labels,
            batches[0],
            masks[0],
            sparse,
            values,
            index,
            bounds,
        )
    else:
        dz = f[end[DY] : end[DY] + n * end[WIDTH]].reshape(n, end[WIDTH])
        fused = optimizer == PLAIN and hyper[2] == F(0)
        for s in range(len(batches)):
            chosen = batches[s]
            if not sparse:
                _gather(images, chosen, mean, scale, x)
            first, last = _lists_of(chosen, bounds)
            _forward(ops, f, n, training, masks[s], sparse, (values, index, scale[0], first, last))
            factor = F(1) if optimizer == ADAGRAD else lr[s]
            losses[s] = _cross_entropy(logits, end[SIZE], labels[chosen], factor, dz)
            if not losses[s] <= hyper[3]:
                return s
            first, last = pixel_bounds[s][: begin[SIZE_IN]], pixel_bounds[s][1:]
            listed = pixel_values, pixel_index, scale[0], first, last
            sparse = _backward(ops, f, n, SUBTRACT if fused else STORE, gradients, masks[s], sparse, listed)
            if not fused:
                _update(f, segments, gradients, optimizer, hyper, lr[s])
                sparse &= _within_range(f[begin[PARAMS] : begin[PARAMS] + begin[SIZE_IN] * begin[WIDTH]])
        return len(batches)
    return 0


@_compiled_once((*_LISTS, types.int64[:, ::1], types.int64))
def by_pixel(values, index, bounds, batches, pixels):
    """Return the lists of each pixel, with the places of images in the mini-batch, for each of the mini-batches."""
    total = 0
    for s in range(len(batches)):
        for image in batches[s]:
            total += bounds[image + 1] - bounds[image]
    found, places = np.empty(total, np.uint8), np.empty(total, np.uint16)
    begins, ends = np.zeros((len(batches), pixels + 1), np.int64), np.empty(pixels, np.int64)
    begin = 0
    for s in range(len(batches)):
        counts = begins[s]
        for image in batches[s]:
            for p in range(bounds[image], bounds[image + 1]):
                counts[np.int64(index[p]) + 1] += 1
        counts[0] = begin
        for j in range(pixels):
            ends[j] = counts[j]
            counts[j + 1] += counts[j]
        begin = counts[pixels]
        for place in range(len(batches[s])):
            image = batches[s, place]
            for p in range(bounds[image], bounds[image + 1]):
                pixel = np.int64(index[p])
                found[ends[pixel]], places[ends[pixel]] = values[p], place
                ends[pixel] += 1
    return found, places, begins


@_compiled_once((types.float32[:, ::1], _BYTES, types.float32[:, ::1]))
def loss(z, labels, dz):
    """Return the mean cross-entropy of logits z (N, K), and put its gradient into dz."""
    return _cross_entropy(z, z.shape[1], labels, F(1), dz)
