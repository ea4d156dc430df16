"""What is measured during training: pure functions of arrays with a leading run axis.

A diagnostic is a function of one :class:`Snapshot` to a :class:`Reading`, named in settings by its key in
``DIAGNOSTICS`` or by its import path. It sees the fixed probe batch with normalisation in training mode, and changes
nothing: curves are the same to the bit whichever diagnostics are on.

Letters for shapes: R runs, P examples of the probe batch, D units, L nonlinearities, K layers with weights, of which
the last gives the logits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .layers import Array, Arrays, softmax_cross_entropy
from .network import Network, copy_tree
from .optim import Optimizer, Params

PERCENTILES = (15, 50, 85)
"""Those of the paper's Figure 1(b, c)."""

LANDSCAPE_STEPS = (0.5, 1, 2, 3, 4)
"""Multiples of the learning rate along the gradient, over the range of Santurkar et al. 2018 (Section 3.1)."""


@dataclass(frozen=True)
class Snapshot:
    """The runs of a group at one measurement."""

    network: Network
    params: Params
    state: Params
    optimizer: Optimizer
    optimizer_state: Params
    lr: Array
    """(R,) in force at this step."""
    x: Array
    """(1, P, C, H, W), the probe batch."""
    targets: Array
    """(1, P, K), one-hot."""
    taps: Arrays
    """What enters each nonlinearity, by the nonlinearity's name: (R, P, ...)."""
    grads: Params
    """Of the mean loss on the probe batch."""
    before: Mapping[str, Array] | None
    """``taps`` of the same runs at the measurement before; None at the first."""

    def gradient(self, params: Params) -> tuple[Array, Params]:
        """Loss (R,) and gradients on the probe batch at other parameters."""
        logits, _, backward = self.network.forward(params, self.state, self.x, train=True)
        loss, dlogits = softmax_cross_entropy(logits, self.targets)
        return loss, backward(dlogits)

    def after_a_step(self) -> Params:
        """The parameters after one update by the optimiser, with the gradient of the probe batch."""
        params = copy_tree(self.params)
        self.optimizer.update(params, self.grads, copy_tree(self.optimizer_state), self.lr)
        return params


@dataclass(frozen=True)
class Reading:
    """What a diagnostic found, by the name of the column."""

    curve: Mapping[str, Array] = field(default_factory=dict)
    """(R,) each: a column of the table of curves."""
    layers: Mapping[str, Array] = field(default_factory=dict)
    """(R, L) or (R, K) each: a column of the table of layers."""
    units: Mapping[str, Array] = field(default_factory=dict)
    """(R, D) each: a column of the table of units, which are those of the last hidden layer."""


Diagnostic = Callable[[Snapshot], Reading]


def percentiles(x: Array, q: Sequence[float]) -> Array:
    """Percentiles q of all values of each run, linearly interpolated: x (R, ...) → (R, len(q)).

    Equal to ``np.percentile`` to rounding and several times as fast: sorting float32 is vectorised, partitioning less.
    """
    return _interpolate(np.sort(x.reshape(len(x), -1, 1), axis=1), q)[:, :, 0]


def unit_percentiles(x: Array, q: Sequence[float]) -> Array:
    """Percentiles q of each unit over the examples: x (R, P, D) → (R, len(q), D)."""
    return _interpolate(np.sort(x, axis=1), q)


def _interpolate(ordered: Array, q: Sequence[float]) -> Array:
    last = ordered.shape[1] - 1
    position = np.asarray(q) / 100 * last
    below = np.floor(position).astype(int)
    fraction = (position - below).astype(ordered.dtype)[:, None]
    return ordered[:, below] * (1 - fraction) + ordered[:, np.minimum(below + 1, last)] * fraction


def wasserstein(a: Array, b: Array) -> Array:
    """1-Wasserstein distance between the distributions of each unit in a and in b: (R, P, D) twice → (R, D).

    For samples of equal size it is the mean distance of the values of equal rank.
    """
    return np.abs(np.sort(a, axis=1) - np.sort(b, axis=1)).mean(axis=1)


def gradient_norm(grads: Iterable[Array]) -> Array:
    """Euclidean norm, (R,), of gradients (R, ...) taken together."""
    flat = [g.reshape(len(g), 1, -1) for g in grads]
    return np.sqrt(sum((g @ g.swapaxes(1, 2))[:, 0, 0] for g in flat))


def cosine(a: Array, b: Array) -> Array:
    """Cosine, (R,), of the angle between a and b, both (R, ...)."""
    dot = a.reshape(len(a), 1, -1) @ b.reshape(len(b), -1, 1)
    return dot[:, 0, 0] / (gradient_norm([a]) * gradient_norm([b]))


def varies(x: Array) -> Array:
    """Whether each unit varies over the examples by more than rounding: x (R, P, D) → (R, D).

    The standard deviation of equal values is 0 to rounding only, and nothing can be divided by it.
    """
    return np.ptp(x, axis=1) > 10 * np.finfo(x.dtype).eps * np.abs(x).max(axis=1)


def singular_values(pre: Array, post: Array, slope: Array, weights: Array) -> Array:
    """Singular values of the Jacobian from one layer's normalised pre-activations x̂ to the next layer's, ẑ.

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


def correct_predictions(logits: Array, labels: Array) -> Array:
    """Number (R,) of examples whose largest logit, (R, N, K), is that of their label (N,)."""
    return (logits.argmax(axis=2) == labels).sum(axis=1)


def _per_layer(values: Iterable[Array]) -> Array:
    """(R,) for each layer → (R, L)."""
    return np.stack(list(values), axis=1)


def _units(tap: Array) -> Array:
    """(R, P, ...) → (R, P, D)."""
    return tap.reshape(*tap.shape[:2], -1)


def layer_percentiles(s: Snapshot) -> Reading:
    """p15, p50, p85 of what enters each nonlinearity, over units and examples together."""
    found = np.stack([percentiles(z, PERCENTILES) for z in s.taps.values()], axis=2)
    return Reading(layers={f"p{q}": found[:, i] for i, q in enumerate(PERCENTILES)})


def inactive(s: Snapshot) -> Reading:
    """Share of saturated outputs (sigmoid, tanh) or dead units (ReLU) of each nonlinearity."""
    layers = s.network.nonlinearities
    return Reading(layers={"inactive": _per_layer(layers[name].inactive(z) for name, z in s.taps.items())})


def gradients(s: Snapshot) -> Reading:
    """Norm of the gradient of the weights before each nonlinearity, and the first one over the last.

    A ratio far below 1 is a vanishing gradient, one far above 1 an exploding gradient.
    """
    fed = [s.network.weights_before(name, s.params) for name in s.taps]
    norms = _per_layer(gradient_norm([s.grads[name]["W"]]) for name in fed)
    return Reading({"gradient_ratio": norms[:, 0] / norms[:, -1]}, {"gradient_norm": norms})


def units(s: Snapshot) -> Reading:
    """p15, p50, p85 of what enters each unit of the last nonlinearity (Figure 1(b, c))."""
    *_, last = s.taps.values()
    found = unit_percentiles(_units(last), PERCENTILES)
    return Reading(units={f"p{q}": found[:, i] for i, q in enumerate(PERCENTILES)})


def drift(s: Snapshot) -> Reading:
    """How the distribution of what enters each unit has moved since the measurement before, on average over units.

    - drift_wasserstein: 1-Wasserstein distance;
    - drift_mean: distance of the means; both in units of the standard deviation before;
    - drift_std: |log| of the ratio of the standard deviations.

    NaN at the first measurement; units that did not vary are left out.
    """
    names = ("drift_wasserstein", "drift_mean", "drift_std")
    if s.before is None:
        nothing = np.full((len(s.lr), len(s.taps)), np.nan)
        return Reading(layers=dict.fromkeys(names, nothing))
    columns: list[tuple[Array, ...]] = []
    for name, z in s.taps.items():
        now, before = _units(z), _units(s.before[name])
        std, std_before = now.std(axis=1), before.std(axis=1)
        counted = varies(now) & varies(before)
        spread = np.where(counted, std_before, 1)
        moved = (
            wasserstein(now, before) / spread,
            np.abs(now.mean(axis=1) - before.mean(axis=1)) / spread,
            np.abs(np.log(np.where(counted, std, 1) / spread)),
        )
        count = counted.sum(axis=1)
        columns.append(tuple(np.where(counted, value, 0).sum(axis=1) / count for value in moved))
    return Reading(layers={n: _per_layer(c) for n, c in zip(names, zip(*columns, strict=True), strict=True)})


def covariate_shift(s: Snapshot) -> Reading:
    """Internal covariate shift by gradients: Santurkar et al. 2018, Definition 2.1, for each weight layer i.

    G is the gradient of W_i at the parameters as they are, G' that after the layers before i (their weights, biases, γ
    and β) have made their update; shift_norm = ‖G − G'‖₂ (ideally 0), shift_cosine = cos(G, G') (ideally 1).

    Differs from the definition in that both the update and the gradients are those of the probe batch, which keeps
    the mini-batches of training out of it.
    """
    stepped, mixed = s.after_a_step(), dict(s.params)
    norms: list[Array] = []
    cosines: list[Array] = []
    for name in s.network.layers:
        if "W" in s.params[name]:
            before = s.grads[name]["W"]
            after = s.gradient(mixed)[1][name]["W"] if norms else before  # nothing precedes the first
            norms.append(gradient_norm([before - after]))
            cosines.append(cosine(before, after))
        mixed[name] = stepped[name]
    return Reading(layers={"shift_norm": _per_layer(norms), "shift_cosine": _per_layer(cosines)})


def jacobian(s: Snapshot) -> Reading:
    """Smallest, median and largest singular value of each layer's Jacobian x̂ → ẑ (see :func:`singular_values`).

    Of the map from the nonlinearity's layer to the next; NaN for the last, whose next are the logits, and where the
    layers between are not fully connected.
    """
    names, taps = ("jacobian_min", "jacobian_median", "jacobian_max"), list(s.taps.items())
    columns = np.full((3, len(s.lr), len(taps)), np.nan)
    for i, ((name, z), (following, _)) in enumerate(itertools.pairwise(taps)):
        weights = s.params[s.network.weights_before(following, s.params)]["W"]
        if z.ndim == 3 and weights.ndim == 3:
            y, _, backward = s.network.layers[name].forward({}, {}, z, train=True)
            found = singular_values(z, y, backward(np.ones_like(y))[0], weights)
            columns[:, :, i] = found[:, -1], np.median(found, axis=1), found[:, 0]
    return Reading(layers=dict(zip(names, columns, strict=True)))


def landscape(s: Snapshot) -> Reading:
    """The loss along the gradient: Santurkar et al. 2018, Section 3.1, at the steps η = LANDSCAPE_STEPS · lr.

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
    return Reading(
        {
            "landscape_loss_min": np.min(losses, axis=0),
            "landscape_loss_max": np.max(losses, axis=0),
            "landscape_gradient_min": np.min(changes, axis=0),
            "landscape_gradient_max": np.max(changes, axis=0),
            "landscape_smoothness": np.max(slopes, axis=0),
        }
    )


DIAGNOSTICS: dict[str, Diagnostic] = {
    "percentiles": layer_percentiles,
    "inactive": inactive,
    "gradients": gradients,
    "units": units,
    "drift": drift,
    "covariate_shift": covariate_shift,
    "jacobian": jacobian,
    "landscape": landscape,
}
