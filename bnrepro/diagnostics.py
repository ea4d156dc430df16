"""What is measured during training: pure functions of arrays with a leading run axis."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .layers import Array


def percentiles(x: Array, q: Sequence[float]) -> Array:
    """Percentiles q of all values of each run, linearly interpolated: x (R, ...) → (R, len(q)).

    Equal to ``np.percentile`` to rounding and several times as fast: sorting float32 is vectorised, partitioning less.
    """
    ordered = np.sort(x.reshape(len(x), -1), axis=1)
    position = np.asarray(q) / 100 * (ordered.shape[1] - 1)
    below = np.floor(position).astype(int)
    above = np.minimum(below + 1, ordered.shape[1] - 1)
    fraction = (position - below).astype(x.dtype)
    return ordered[:, below] * (1 - fraction) + ordered[:, above] * fraction


def gradient_norm(grads: Iterable[Array]) -> Array:
    """Euclidean norm, (R,), of gradients (R, ...) taken together."""
    flat = [g.reshape(len(g), 1, -1) for g in grads]
    return np.sqrt(sum((g @ g.swapaxes(1, 2))[:, 0, 0] for g in flat))


def correct_predictions(logits: Array, labels: Array) -> Array:
    """Number (R,) of examples whose largest logit, (R, N, K), is that of their label (N,)."""
    return (logits.argmax(axis=2) == labels).sum(axis=1)
