"""What is measured during training: pure functions of arrays with a leading run axis.

Each is a :class:`bnrepro.measuring.Diagnostic`; settings name it by its key in ``DIAGNOSTICS`` or by its import path.
What statistics do at inference is measured in :mod:`bnrepro.inference`.

Letters for shapes: R runs, P examples of the probe batch, D units, L nonlinearities, K layers with weights, of which
the last gives the logits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from . import inference
from .data import minibatches
from .errors import InputError
from .layers import Array, Dense, Dropout, Nonlinearity
from .measuring import ALWAYS, Column, Diagnostic, Level, Snapshot, measures, units_of
from .optim import Params

PERCENTILES = (15, 50, 85)
"""The percentiles that the paper's Figure 1(b, c) draws."""

LANDSCAPE_STEPS = (0.5, 1, 2, 3, 4)
"""Multiples of the learning rate along the gradient, over the range of Santurkar et al. 2018 (Section 3.1)."""

ESTIMATE_SIZES = (2, 4, 8, 16, 32, 64, 128)
"""The examples of the mini-batches whose gradients are compared with that of the whole probe batch."""
ESTIMATES = 32
"""The least number of mini-batches of each size that are compared."""

SMALL_CHANGE = 0.01
"""The size of a small change of weights, relative to their norm."""


def percentiles(x: Array, q: Sequence[float]) -> Array:
    """Return percentiles q of all values of each run, linearly interpolated: x (R, ...) → (R, len(q)).

    Equal to ``np.percentile`` to rounding and several times as fast: sorting float32 is vectorised, partitioning less.
    """
    return _interpolate(np.sort(x.reshape(len(x), -1, 1), axis=1), q)[:, :, 0]


def unit_percentiles(x: Array, q: Sequence[float]) -> Array:
    """Return percentiles q of each unit over the examples: x (R, P, D) → (R, len(q), D)."""
    return _interpolate(np.sort(x, axis=1), q)


def _interpolate(ordered: Array, q: Sequence[float]) -> Array:
    last = ordered.shape[1] - 1
    position = np.asarray(q) / 100 * last
    below = np.floor(position).astype(int)
    fraction = (position - below).astype(ordered.dtype)[:, None]
    between: Array = ordered[:, below] * (1 - fraction) + ordered[:, np.minimum(below + 1, last)] * fraction
    between += 0  # −0 becomes 0: which of them comes first is not the same in all versions of NumPy
    return between


def wasserstein(a: Array, b: Array) -> Array:
    """Return the 1-Wasserstein distance between each unit's distributions in a and b: (R, P, D) twice → (R, D).

    For samples of equal size it is the mean distance of the values of equal rank.
    """
    distance: Array = np.abs(np.sort(a, axis=1) - np.sort(b, axis=1)).mean(axis=1)
    return distance


def gradient_norm(grads: Iterable[Array]) -> Array:
    """Return the Euclidean norm, (R,), of gradients (R, ...) taken together."""
    norm: Array = np.sqrt(sum(_total(np.square(g)) for g in grads))
    return norm


def _total(x: Array) -> Array:
    """Add up x (R, ...) to (R,) half by half, an order that no version of NumPy and no machine changes."""
    rest = x.reshape(len(x), -1)
    while (count := rest.shape[1]) > 1:
        half = (count + 1) // 2
        upper = rest[:, half:]
        rest = rest[:, :half].copy()
        rest[:, : count - half] += upper
    total: Array = rest[:, 0]
    return total


def cosine(a: Array, b: Array) -> Array:
    """Return the cosine, (R,), of the angle between a and b, both (R, ...)."""
    dot = _total(a * b)
    dot /= gradient_norm([a]) * gradient_norm([b])
    return dot


def varies(x: Array) -> Array:
    """Tell whether each unit varies over the examples by more than rounding: x (R, P, D) → (R, D).

    The standard deviation of equal values is 0 to rounding only, and nothing can be divided by it.
    """
    beyond: Array = np.ptp(x, axis=1) > 10 * np.finfo(x.dtype).eps * np.abs(x).max(axis=1)
    return beyond


def singular_values(pre: Array, post: Array, slope: Array, weights: Array) -> Array:
    """Return the singular values of the Jacobian from one layer's normalised x̂ to the next layer's ẑ.

    Section 3.3 conjectures them to be near 1 with batch norm. With x = σ x̂ + μ and h = g(x) W, and with every mean
    and standard deviation held at its value on the probe batch, the Jacobian of the linearised layer is
    J = diag(σ_x · E[g'(x)]) W diag(1/σ_h), so that ẑ = x̂ J; an affine γ, β behind h cancels.

    Args:
        pre: x, (R, P, D).
        post: g(x), (R, P, D).
        slope: g'(x), (R, P, D).
        weights: W, (R, D, D').

    Returns:
        (R, min(D, D')), from the largest; NaN where a unit of h does not vary.
    """
    left = pre.std(axis=1) * slope.mean(axis=1)
    following = post @ weights
    spread = np.where(varies(following), following.std(axis=1), np.nan)
    jacobian = left[:, :, None] * weights / spread[:, None, :]
    finite = np.isfinite(jacobian).all(axis=(1, 2))
    values = np.full((len(jacobian), min(jacobian.shape[1:])), np.nan, jacobian.dtype)
    values[finite] = np.linalg.svd(jacobian[finite], compute_uv=False)
    return values


def _per_layer(values: Iterable[Array], runs: int) -> Array:
    """Stack the values (R,) of each layer as (R, L), where L may be 0."""
    return np.stack(stacked, axis=-1) if (stacked := list(values)) else np.empty((runs, 0))


def _percentile_columns(level: Level, what: str) -> Iterator[Column]:
    return (Column(f"p{q}", level, f"{q}th percentile of {what}") for q in PERCENTILES)


@measures(*_percentile_columns("layer", "what enters the nonlinearity"))
def layer_percentiles(s: Snapshot) -> Mapping[str, Array]:
    """Measure p15, p50, p85 of what enters each nonlinearity, over units and examples together."""
    found = [percentiles(z, PERCENTILES) for z in s.taps.values()]
    return {f"p{q}": _per_layer((each[:, i] for each in found), len(s.lr)) for i, q in enumerate(PERCENTILES)}


@measures(Column("inactive", "layer", "saturated outputs or dead units", "share"))
def inactive(s: Snapshot) -> Mapping[str, Array]:
    """Measure the share of saturated outputs (sigmoid, tanh) or dead units (ReLU) of each nonlinearity."""
    layers = s.network.nonlinearities
    return {"inactive": _per_layer((layers[name].inactive(z) for name, z in s.taps.items()), len(s.lr))}


def _of_weights(s: Snapshot, layer: str, params: Params) -> list[Array]:
    """Return the entries of ``params``, or of gradients, that belong to the weights of a layer."""
    return [params[layer][name] for name in s.network.weights[layer]]


@measures(
    Column("gradient_ratio", "run", "norm of the gradient of the first weights over that of the last"),
    Column("gradient_norm", "layer", "norm of the gradient of the weights"),
)
def gradients(s: Snapshot) -> Mapping[str, Array]:
    """Measure the norm of the gradient of the weights before each nonlinearity, and the first one over the last.

    A ratio far below 1 is a vanishing gradient, one far above 1 an exploding gradient.
    """
    before = map(s.network.weights_before, s.taps)
    norms = _per_layer((gradient_norm(_of_weights(s, name, s.grads)) for name in before), len(s.lr))
    ratio = norms[:, 0] / norms[:, -1] if s.taps else np.full(len(s.lr), np.nan)
    return {"gradient_ratio": ratio, "gradient_norm": norms}


@measures(*_percentile_columns("unit", "the input of the unit"))
def units(s: Snapshot) -> Mapping[str, Array]:
    """Measure p15, p50, p85 of what enters each unit of the last nonlinearity (Figure 1(b, c))."""
    if not s.taps:
        raise InputError("diagnostics=units: must be left out, since the network has no nonlinearity")
    *_, last = s.taps.values()
    found = unit_percentiles(units_of(last), PERCENTILES)
    return {f"p{q}": found[:, i] for i, q in enumerate(PERCENTILES)}


@measures(
    Column("drift_wasserstein", "layer", "Wasserstein distance / σ"),
    Column("drift_mean", "layer", "distance of the means / σ"),
    Column("drift_std", "layer", "|log| of the ratio of the σ"),
    Column("drift_floor", "layer", "Wasserstein distance of two halves / σ"),
)
def drift(s: Snapshot) -> Mapping[str, Array]:
    """Measure how what enters each unit has moved since the measurement before, on average over units.

    - drift_wasserstein: 1-Wasserstein distance;
    - drift_mean: distance of the means; both in units of the standard deviation before;
    - drift_std: |log| of the ratio of the standard deviations;
    - drift_floor: what a finite sample shows where nothing moves: the 1-Wasserstein distance of two halves of the probe
      batch, every other example and the rest, in units of the standard deviation now. The halves have P/2 examples
      each, so that two independent samples of all P are about drift_floor / √2 apart.

    NaN at the first measurement, but for drift_floor; units that do not vary, or did not before, are left out.
    """
    names = ("drift_wasserstein", "drift_mean", "drift_std", "drift_floor")
    columns: list[tuple[Array, ...]] = []
    for name, z in s.taps.items():
        now, before = units_of(z), units_of(z if s.before is None else s.before[name])
        std, std_before, half = now.std(axis=1), before.std(axis=1), now.shape[1] // 2
        counted = varies(now) & varies(before)
        spread, spread_now = np.where(counted, std_before, 1), np.where(counted, std, 1)
        moved = (
            wasserstein(now, before) / spread,
            np.abs(now.mean(axis=1) - before.mean(axis=1)) / spread,
            np.abs(np.log(spread_now / spread)),
        )
        if s.before is None:
            moved = (np.full_like(std, np.nan),) * 3
        floor = wasserstein(now[:, : 2 * half : 2], now[:, 1 : 2 * half : 2]) / spread_now
        count = counted.sum(axis=1)
        columns.append(tuple(np.where(counted, value, 0).sum(axis=1) / count for value in (*moved, floor)))
    return {n: _per_layer((found[i] for found in columns), len(s.lr)) for i, n in enumerate(names)}


@measures(
    Column("shift_norm", "layer", "‖G − G'‖"),
    Column("shift_cosine", "layer", "cos(G, G')"),
)
def covariate_shift(s: Snapshot) -> Mapping[str, Array]:
    """Measure internal covariate shift by gradients: Santurkar et al. 2018, Definition 2.1, for each weight layer i.

    G is the gradient of W_i at the parameters as they are, G' that after the layers before i, of branches beside it
    too (their weights, biases, γ and β), have made their update; shift_norm = ‖G − G'‖₂ (ideally 0), shift_cosine =
    cos(G, G') (ideally 1).

    Differs from the definition in that both the update and the gradients are those of the probe batch, which keeps
    the mini-batches of training out of it; see :func:`minibatch_shift`.
    """
    _, norms, cosines = _gradient_shift(s)
    return {"shift_norm": norms, "shift_cosine": cosines}


@measures(
    Column("minibatch_gradient_norm", "layer", "‖G‖ of a mini-batch"),
    Column("minibatch_shift_norm", "layer", "‖G − G'‖ of a mini-batch"),
    Column("minibatch_shift_cosine", "layer", "cos(G, G') of a mini-batch"),
)
def minibatch_shift(s: Snapshot) -> Mapping[str, Array]:
    """Measure internal covariate shift as :func:`covariate_shift` does, by the gradients of a training mini-batch.

    That is Definition 2.1 of Santurkar et al. 2018 but for the mini-batch itself, which is not the one that the run is
    trained on next. It is drawn by the number of the step alone, the same for all runs, from all training examples and
    without replacement: its law is that of a mini-batch of shuffled epochs, without augmentation.
    minibatch_gradient_norm is ‖G‖₂.
    """
    batch = next(minibatches(len(s.data.train_labels), s.batch_size, s.step))
    x = s.data.inputs(s.data.train_images[None, batch], s.lr.dtype)
    own = replace(s, x=x, targets=np.eye(s.data.classes, dtype=s.lr.dtype)[s.data.train_labels[None, batch]])
    found = _gradient_shift(replace(own, grads=own.gradient(s.params)[1]))
    return {column.name: values for column, values in zip(minibatch_shift.columns, found, strict=True)}


def _gradient_shift(s: Snapshot) -> tuple[Array, Array, Array]:
    """Return ‖G‖, ‖G − G'‖ and cos(G, G') of each weight layer, (R, K), for the examples of the snapshot."""
    stepped, mixed = s.after_a_step(), dict(s.params)
    found: list[tuple[Array, Array, Array]] = []
    for name in s.network.layers:
        if name in s.network.weights:
            before = _joined(_of_weights(s, name, s.grads))
            # Nothing precedes the first.
            after = _joined(_of_weights(s, name, s.gradient(mixed)[1])) if found else before
            found.append((gradient_norm([before]), gradient_norm([before - after]), cosine(before, after)))
        mixed[name] = stepped[name]
    sizes, norms, cosines = (_per_layer(values, len(s.lr)) for values in zip(*found, strict=True))
    return sizes, norms, cosines


def _joined(arrays: Sequence[Array]) -> Array:
    """Join arrays (R, ...) into one, (R, number of all values); a single one stays as it is."""
    return arrays[0] if len(arrays) == 1 else np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)


@measures(
    Column("jacobian_min", "layer", "smallest singular value"),
    Column("jacobian_median", "layer", "median singular value"),
    Column("jacobian_max", "layer", "largest singular value"),
)
def jacobian(s: Snapshot) -> Mapping[str, Array]:
    """Measure the extreme and median singular values of each layer's Jacobian x̂ → ẑ (see :func:`singular_values`).

    The map is that from the nonlinearity's layer to the next; NaN for the last, whose next are the logits, and where
    the layers between are not fully connected, or a norm is between them.
    """
    names, taps = ("jacobian_min", "jacobian_median", "jacobian_max"), list(s.taps.items())
    columns = np.full((3, len(s.lr), len(taps)), np.nan)
    for i, ((name, z), (following, _)) in enumerate(itertools.pairwise(taps)):
        between, order = s.network.weights_before(following), [*s.network.layers]
        passed = [s.network.layers[each] for each in order[order.index(name) : order.index(between)]]
        connected = z.ndim == 3 and isinstance(s.network.layers[between], Dense)
        if connected and all(isinstance(layer, Nonlinearity | Dropout) for layer in passed):
            (weights,) = _of_weights(s, between, s.params)
            y, _, backward = s.network.layers[name].forward({}, {}, z, train=True)
            found = singular_values(z, y, backward(np.ones_like(y))[0], weights)
            columns[:, :, i] = found[:, -1], np.median(found, axis=1), found[:, 0]
    return dict(zip(names, columns, strict=True))


@measures(
    Column("landscape_loss_min", "run", "least loss along the gradient", "nats"),
    Column("landscape_loss_max", "run", "largest loss along the gradient", "nats"),
    Column("landscape_gradient_min", "run", "least change of the gradient along it"),
    Column("landscape_gradient_max", "run", "largest change of the gradient along it"),
    Column("landscape_smoothness", "run", "effective β-smoothness"),
)
def landscape(s: Snapshot) -> Mapping[str, Array]:
    """Measure the loss along the gradient: Santurkar et al. 2018, Section 3.1, at the steps η = LANDSCAPE_STEPS · lr.

    - landscape_loss_min, landscape_loss_max: the range of L(θ − η ∇L);
    - landscape_gradient_min, landscape_gradient_max: the range of ‖∇L(θ) − ∇L(θ − η ∇L)‖₂ ("gradient predictiveness");
    - landscape_smoothness: the largest ‖∇L(θ) − ∇L(θ − η ∇L)‖₂ / ‖η ∇L‖₂ ("effective β-smoothness").
    """
    losses, changes, slopes = [], [], []
    norm = gradient_norm(g for layer in s.grads.values() for g in layer.values())
    for multiple in LANDSCAPE_STEPS:
        eta = multiple * s.lr
        moved = {
            layer: {name: p - eta.reshape(-1, *[1] * (p.ndim - 1)) * s.grads[layer][name] for name, p in ps.items()}
            for layer, ps in s.params.items()
        }
        loss, grads = s.gradient(moved)
        change = gradient_norm(grads[layer][name] - g for layer, gs in s.grads.items() for name, g in gs.items())
        losses.append(loss)
        changes.append(change)
        slopes.append(change / (eta * norm))
    return {
        "landscape_loss_min": np.min(losses, axis=0),
        "landscape_loss_max": np.max(losses, axis=0),
        "landscape_gradient_min": np.min(changes, axis=0),
        "landscape_gradient_max": np.max(changes, axis=0),
        "landscape_smoothness": np.max(slopes, axis=0),
    }


@measures(
    Column("weight_norm", "layer", "norm of the weights"),
    Column("effective_rate", "layer", "learning rate / ‖W‖²"),
)
def weights(s: Snapshot) -> Mapping[str, Array]:
    """Measure the norm of each layer's weights and their effective rate, lr / ‖W‖².

    With batch norm, the output does not depend on the scale of W, and the gradient is ÷ a where W is × a (Section 3.3).
    So a step of rate lr turns W as one of rate lr / ‖W‖² turns W / ‖W‖ (van Laarhoven 2017, Section 3).
    """
    norms = _per_layer((gradient_norm(_of_weights(s, layer, s.params)) for layer in s.network.weights), len(s.lr))
    return {"weight_norm": norms, "effective_rate": s.lr[:, np.newaxis] / norms**2}


@measures(
    Column("skewness", "layer", "|skewness| of what enters the nonlinearity"),
    Column("kurtosis", "layer", "|excess kurtosis| of what enters the nonlinearity"),
    Column("output_skewness", "layer", "|skewness| of what leaves the nonlinearity"),
    Column("output_kurtosis", "layer", "|excess kurtosis| of what leaves the nonlinearity"),
    Column("output_zeros", "layer", "zeros that leave the nonlinearity", "share"),
)
def moments(s: Snapshot) -> Mapping[str, Array]:
    """Measure how far from Gaussian each nonlinearity's inputs and outputs are, and the share of outputs that are 0.

    Of a unit's values x over the examples: skewness E[x̂³] and excess kurtosis E[x̂⁴] − 3, where x̂ = (x − μ) / σ; both
    are 0 of a Gaussian. Their absolute values are averaged over the units that vary, so that no two cancel. Section 3.2
    says that what enters is "more likely to have a symmetric, non-sparse distribution" than what leaves.
    """
    found: dict[str, list[Array]] = {}
    for name, z in s.taps.items():
        y, _, _ = s.network.layers[name].forward({}, {}, z, train=True)
        for prefix, x in (("", units_of(z)), ("output_", units_of(y))):
            for column, values in zip(("skewness", "kurtosis"), _shape(x), strict=True):
                found.setdefault(prefix + column, []).append(values)
        found.setdefault("output_zeros", []).append((y == 0).reshape(len(y), -1).mean(axis=1))
    return {column.name: _per_layer(found.get(column.name, []), len(s.lr)) for column in moments.columns}


def _shape(x: Array) -> Iterator[Array]:
    """Yield |skewness| and |excess kurtosis|, (R,), on average over the units of x (R, P, D) that vary.

    Each unit is first multiplied by a power of two: squares of what a saturated sigmoid leaves, 1e-30, would be 0.
    """
    counted = varies(x)
    x = np.ldexp(x, -np.frexp(np.abs(x).max(axis=1, keepdims=True))[1])
    normalised = (x - x.mean(axis=1, keepdims=True)) / np.where(counted, x.std(axis=1), 1)[:, np.newaxis]
    for moment in ((normalised**3).mean(axis=1), (normalised**4).mean(axis=1) - 3):
        yield np.where(counted, np.abs(moment), 0).sum(axis=1) / counted.sum(axis=1)


@measures(
    *(Column(f"estimate_noise_{m}", "run", f"relative noise of the gradient of {m} examples") for m in ESTIMATE_SIZES),
    *(Column(f"estimate_bias_{m}", "run", f"relative bias of the gradient of {m} examples") for m in ESTIMATE_SIZES),
    *(Column(f"estimate_cosine_{m}", "run", f"cosine of the gradient of {m} examples") for m in ESTIMATE_SIZES),
)
def gradient_estimate(s: Snapshot) -> Mapping[str, Array]:
    """Measure how well the gradient g_m of a mini-batch of m examples estimates that of all, g (Section 1).

    - estimate_noise_m: (E ‖g_m − g‖²)^½ / ‖g‖;
    - estimate_bias_m: ‖E g_m − g‖ / ‖g‖;
    - estimate_cosine_m: E cos(g_m, g).

    The examples are those of the probe batch, in training mode. Mini-batches are those of whole epochs, at least
    ESTIMATES of them, so that without batch norm the bias is 0 to rounding where m divides P. NaN where m > P.
    """
    examples, whole = s.x.shape[1], _joined_gradients(s.grads)
    size, found = gradient_norm([whole]), dict[str, Array]()
    for m in ESTIMATE_SIZES:
        an_epoch = examples // m
        count = an_epoch * math.ceil(ESTIMATES / an_epoch) if an_epoch else 0
        total, squares, cosines = np.zeros_like(whole), np.zeros_like(size), np.zeros_like(size)
        for batch in itertools.islice(minibatches(examples, m, 0), count) if count else ():
            part = replace(s, x=s.x[:, batch], targets=s.targets[:, batch])
            estimate = _joined_gradients(part.gradient(s.params)[1])
            total += estimate
            squares += gradient_norm([estimate - whole]) ** 2
            cosines += cosine(estimate, whole)
        n = count or math.nan
        found[f"estimate_noise_{m}"] = np.sqrt(squares / n) / size
        found[f"estimate_bias_{m}"] = gradient_norm([total / n - whole]) / size
        found[f"estimate_cosine_{m}"] = cosines / n
    return found


def _joined_gradients(grads: Params) -> Array:
    return _joined([g for layer in grads.values() for g in layer.values()])


@measures(Column("relative_change", "layer", "change of what enters after one of 1% of the first weights"))
def amplification(s: Snapshot) -> Mapping[str, Array]:
    """Measure how a small change of the first weights grows on its way: ‖z' − z‖ / ‖z − E z‖ at each nonlinearity.

    z is what enters, E z its mean over the examples; z' the same after W + 0.01 ‖W‖ G / ‖G‖, where G is Gaussian noise,
    equal for all runs. Section 1 says that small changes amplify with depth, Section 3.3 that batch norm prevents it.
    NaN where z is so nearly the same for all examples that rounding would be more than a hundredth of such a change.
    """
    first = next(iter(s.network.weights))
    changed, rng = dict(s.params[first]), np.random.default_rng(0)
    for name in s.network.weights[first]:
        w = changed[name]
        noise = rng.standard_normal((1, *w.shape[1:])).astype(w.dtype)
        step = SMALL_CHANGE * gradient_norm([w]) / gradient_norm([noise])
        changed[name] = w + step.reshape(-1, *[1] * (w.ndim - 1)) * noise
    taps = list[Array]()
    s.network.forward(s.params | {first: changed}, s.state, s.x, train=True, taps=taps)
    ratios = list[Array]()
    for after, z in zip(taps, s.taps.values(), strict=True):
        spread = gradient_norm([z - z.mean(axis=1, keepdims=True)])
        rounding = np.finfo(z.dtype).eps * gradient_norm([z])
        ratios.append(np.where(SMALL_CHANGE * spread > 100 * rounding, gradient_norm([after - z]) / spread, np.nan))
    return {"relative_change": _per_layer(ratios, len(s.lr))}


DIAGNOSTICS: dict[str, Diagnostic] = {
    "percentiles": layer_percentiles,
    "inactive": inactive,
    "gradients": gradients,
    "units": units,
    "drift": drift,
    "covariate_shift": covariate_shift,
    "minibatch_shift": minibatch_shift,
    "jacobian": jacobian,
    "landscape": landscape,
    "weights": weights,
    "moments": moments,
    "gradient_estimate": gradient_estimate,
    "amplification": amplification,
    "companions": inference.companions,
    "inference": inference.ways,
    "corruptions": inference.corruptions,
}


def axis_label(level: Level, column: str) -> str:
    """Return the label of an axis for a column that is measured of every run, or by a diagnostic of this module.

    Raises:
        KeyError: if there is no such column.
    """
    declared = (*ALWAYS, *(column for diagnostic in DIAGNOSTICS.values() for column in diagnostic.columns))
    return {(each.level, each.name): each.label for each in declared}[level, column]
