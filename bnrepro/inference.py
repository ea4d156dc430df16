"""What a normalised network does at inference, and what its statistics are worth: diagnostics.

Letters for shapes: R runs, N examples, K classes; m is the size of a mini-batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from .batchnorm import BatchNorm
from .data import evenly, minibatches
from .layers import Array, channels_last
from .measuring import Column, Snapshot, measures
from .network import Network
from .optim import Params

COMPANY = 10
"""How often each example is seen with others, and how many mini-batches there are of them."""


def normalizers(network: Network) -> list[str]:
    """Return the names of a network's batch norms."""
    return [name for name, layer in network.layers.items() if isinstance(layer, BatchNorm)]


def with_inference(network: Network, inference: Literal["ema", "population", "batch"]) -> Network:
    """Return the network with other statistics at inference in all its batch norms."""
    changed = {
        name: replace(layer, inference=inference) if isinstance(layer, BatchNorm) else layer
        for name, layer in network.layers.items()
    }
    return replace(network, layers=changed)


def entering(network: Network, name: str, params: Params, state: Params, x: Array, *, train: bool) -> Array:
    """Return what enters a layer, as (R, N·H·W, D): a row for each value that a feature has."""
    taps = list[Array]()
    network.until(name).forward(params, state, x, train=train, taps=taps)
    z = taps[-1]
    return z if z.ndim == 3 else channels_last(z).reshape(len(z), -1, z.shape[2])


def without_correction(s: Snapshot, state: Params) -> Params:
    """Return a state for inference by Algorithm 2 with its variances as if the factor m/(m−1) were left out."""
    x = next(s.batches())
    changed = dict(state)
    for name in normalizers(s.network):
        m = entering(s.network, name, s.params, s.state, x, train=True).shape[1]
        changed[name] = state[name] | {"var": state[name]["var"] * ((m - 1) / m)}
    return changed


def layer_by_layer(s: Snapshot) -> Params:
    """Return a state for inference by Algorithm 2, each layer's after those before it have theirs and use them.

    Algorithm 2 itself gathers all at once, while the layers before normalise by mini-batches: then what enters a layer
    at inference is not quite what its statistics are of.
    """
    network, state = with_inference(s.network, "ema"), dict(s.state)
    for name in normalizers(network):
        means, variances = [], []
        for x in s.batches():
            z = entering(network, name, s.params, state, x, train=False)
            means.append(z.mean(axis=1))
            variances.append(z.var(axis=1, ddof=1))
        shape = state[name]["mean"].shape
        found = {"mean": np.mean(means, axis=0).reshape(shape), "var": np.mean(variances, axis=0).reshape(shape)}
        state[name] = state[name] | found
    return state


@measures(
    Column("accuracy_ema", "run", "test accuracy by moving averages"),
    Column("accuracy_population", "run", "test accuracy by Algorithm 2"),
    Column("accuracy_biased", "run", "test accuracy by Algorithm 2 without m/(m−1)"),
    Column("accuracy_layerwise", "run", "test accuracy by Algorithm 2 layer by layer"),
    Column("accuracy_batch", "run", "test accuracy by the test mini-batch's own statistics"),
)
def ways(s: Snapshot) -> Mapping[str, Array]:
    """Measure the test accuracy by each way to get the statistics of inference, on the same weights.

    - accuracy_ema: moving averages gathered during training;
    - accuracy_population: Algorithm 2: means of μ_B and m/(m−1) σ²_B over training mini-batches;
    - accuracy_biased: means of μ_B and σ²_B (:func:`without_correction`);
    - accuracy_layerwise: Algorithm 2, one layer after another (:func:`layer_by_layer`);
    - accuracy_batch: those of mini-batches of test images, of the size trained on; an incomplete one is left out.

    Without batch norm all are the same.
    """
    by_averages = s.accuracy(with_inference(s.network, "ema"), s.state)
    if not normalizers(s.network):
        return {column.name: by_averages for column in ways.columns}
    network, whole = with_inference(s.network, "population"), len(s.evaluated) // s.batch_size * s.batch_size
    population = network.with_population_statistics(s.params, s.state, s.batches())
    return {
        "accuracy_ema": by_averages,
        "accuracy_population": s.accuracy(network, population),
        "accuracy_biased": s.accuracy(network, without_correction(s, population)),
        "accuracy_layerwise": s.accuracy(network, layer_by_layer(s)),
        "accuracy_batch": s.accuracy(
            with_inference(s.network, "batch"), s.state, s.evaluated[: whole or None], at_once=s.batch_size
        ),
    }


@measures(Column("companions", "run", "spread of an example's logits over its companions / over examples"))
def companions(s: Snapshot) -> Mapping[str, Array]:
    """Measure how far an example's logits depend on what it is seen with (Section 3.4).

    Training images, 10 times as many as a mini-batch has, are put into mini-batches anew 10 times, and go through the
    network in training mode. The root mean square over examples and classes of the standard deviation of a logit over
    the 10 is divided by that over examples of its mean. With dropout, masks contribute. NaN where the data set has
    fewer than two mini-batches.
    """
    count, m = len(s.data.train_labels), s.batch_size
    chosen = evenly(count, min(COMPANY, count // m) * m)
    if len(chosen) < 2 * m:
        return {"companions": np.full(len(s.lr), np.nan)}
    found = np.empty((COMPANY, len(s.lr), len(chosen), s.data.classes), s.lr.dtype)
    batches = minibatches(len(chosen), m, 0)
    for of_all in found:
        for batch in itertools.islice(batches, len(chosen) // m):
            x = s.data.inputs(s.data.train_images[None, chosen[batch]], s.lr.dtype)
            of_all[:, batch] = s.network.forward(s.params, s.state, x, train=True)[0]
    over_companions, over_examples = found.var(axis=0, ddof=1), found.mean(axis=0).var(axis=1)
    return {"companions": np.sqrt(over_companions.mean(axis=(1, 2)) / over_examples.mean(axis=1))}


Corruption = Callable[[Array, float, np.random.Generator], Array]


def _blurred(x: Array, share: float, rng: np.random.Generator) -> Array:
    mean, reach = x, max(1, x.shape[-1] // 8)
    for axis in (3, 4):
        wide = np.pad(mean, [(reach, reach) if each == axis else (0, 0) for each in range(5)], mode="edge")
        shifted = (wide.take(range(i, i + x.shape[axis]), axis) for i in range(2 * reach + 1))
        mean = sum(shifted) / (2 * reach + 1)
    return (1 - share) * x + share * mean


CORRUPTIONS: Mapping[str, tuple[str, Sequence[float], Corruption]] = {
    "contrast": ("contrast × {}", (0.7, 0.4, 0.1), lambda x, by, rng: by * x),
    "brightness": ("brightness + {}", (0.25, 0.5, 1.0), lambda x, by, rng: x + by),
    "inversion": ("{} inverted", (0.25, 0.75, 1.0), lambda x, by, rng: (1 - by) * x + by * (1 - x)),
    "noise": (
        "noise of σ = {}", (0.15, 0.3, 0.6), lambda x, by, rng: x + by * rng.standard_normal(x.shape).astype(x.dtype)
    ),
    "blur": ("{} blurred", (1 / 3, 2 / 3, 1.0), _blurred),
}  # fmt: skip
"""The words for what is done to images of intensities from 0 to 1, its severities, and the function.

Nothing is clipped, so that what is affine stays so. An image is mixed with its inverse, or with one that is blurred by
means over squares of about a quarter of its width (3 × 3 pixels of 8, 7 × 7 of 28), in a share that is the severity.
"""


def _corruptions() -> Iterator[tuple[str, str, Corruption, float]]:
    """Yield each corruption in each severity: the name of its column, in words, its function and the severity."""
    for name, (words, severities, change) in CORRUPTIONS.items():
        for i, by in enumerate(severities, start=1):
            yield f"accuracy_{name}_{i}", words.format(f"{by:.2g}"), change, by


@measures(
    *(Column(name, "run", f"test accuracy, {words}") for name, words, *_ in _corruptions()),
    *(Column(f"{name}_recomputed", "run", f"test accuracy, {words}, statistics recomputed")
      for name, words, *_ in _corruptions()),
)  # fmt: skip
def corruptions(s: Snapshot) -> Mapping[str, Array]:
    """Measure the test accuracy on corrupted images, and that with statistics recomputed on corrupted ones (Section 5).

    Those recomputed are the population statistics (Algorithm 2) of training images that are corrupted likewise, whose
    labels play no part. The rest of the network is as it is, and all of it where there is no batch norm.
    """
    population, found = with_inference(s.network, "population"), dict[str, Array]()
    of_clean = s.network.with_population_statistics(s.params, s.state, s.batches())  # where it asks for them
    for name, _, change, by in _corruptions():
        found[name] = s.accuracy(s.network, of_clean, change=_bound(change, by, seed=0))
        found[f"{name}_recomputed"] = found[name]
        if normalizers(s.network):
            batches = map(_bound(change, by, seed=1), s.batches())
            state = population.with_population_statistics(s.params, s.state, batches)
            found[f"{name}_recomputed"] = s.accuracy(population, state, change=_bound(change, by, seed=0))
    return found


def _bound(change: Corruption, by: float, seed: int) -> Callable[[Array], Array]:
    rng = np.random.default_rng(seed)
    return lambda x: change(x, by, rng)
