"""Diagnostics of inference against slow and obvious twins."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from snapshots import NETWORKS, alone, each_network, measured, read, take

from bnrepro.batchnorm import BatchNorm
from bnrepro.data import minibatches
from bnrepro.inference import CORRUPTIONS, layer_by_layer, with_inference, without_correction
from bnrepro.layers import Array, Dropout, Sigmoid, xavier
from bnrepro.measuring import Snapshot
from bnrepro.network import IMAGES, Network, mlp
from bnrepro.optim import Params


def some_way_into_training(network: Network) -> Snapshot:
    """Three runs with moving averages of their own."""
    s, rng = take(network), np.random.default_rng(2)
    state = {layer: dict(arrays) for layer, arrays in s.state.items()}
    for arrays in state.values():
        if "var" in arrays:
            arrays["mean"] = 0.3 * rng.standard_normal(arrays["mean"].shape)
            arrays["var"] = rng.uniform(0.5, 2, arrays["var"].shape)
    return measured(s, state=state)


def images(s: Snapshot, chosen: Sequence[int] | Array, *, train: bool = True) -> Array:
    of = s.data.train_images if train else s.data.test_images
    floats: Array = of[np.asarray(chosen)][None] / 255
    return floats


def training_batches(s: Snapshot) -> list[Array]:
    """70 training images make 11 mini-batches of 6."""
    return [images(s, batch) for batch in itertools.islice(minibatches(70, 6, 0), 11)]


def flattened(x: Array) -> Array:
    """A row for each value that a feature has."""
    rows: Array = x[0] if x.ndim == 3 else np.moveaxis(x[0], 1, -1).reshape(-1, x.shape[2])
    return rows


def slow_population(s: Snapshot, batches: list[Array], ddof: int, *, one_by_one: bool = False) -> Params:
    """Statistics from mini-batches that each layer passes on normalised by themselves, or by the statistics found."""
    found, outputs = dict(s.state), {IMAGES: batches}
    for name, layer in s.network.layers.items():
        sources = s.network.inputs[name]
        several: Any = [*zip(*(outputs[each] for each in sources), strict=True)]
        batches = outputs[sources[0]] if len(sources) == 1 else several
        states = [s.state[name]] * len(batches)
        if isinstance(layer, BatchNorm):
            rows = [flattened(x) for x in batches]
            averages = {"mean": [x.mean(axis=0) for x in rows], "var": [x.var(axis=0, ddof=ddof) for x in rows]}
            shape = s.state[name]["mean"].shape
            found[name] = s.state[name] | {c: np.mean(each, axis=0).reshape(shape) for c, each in averages.items()}
            states = [found[name]] * len(batches)
        elif isinstance(layer, Dropout):  # whose masks differ
            states = [of | {"drawn": of["drawn"] + i} for i, of in enumerate(states)]
        passed = zip(batches, states, strict=True)
        outputs[name] = [layer.forward(s.params[name], of, x, train=not one_by_one)[0] for x, of in passed]
    return found


def right(logits: Array, labels: Array) -> float:
    """The share of examples whose largest logit is that of their label."""
    return float(np.mean([int(np.argmax(z)) == label for z, label in zip(logits[0], labels, strict=True)]))


def slow_accuracy(s: Snapshot, state: Params, change: Callable[[Array], Array] = lambda x: x) -> float:
    """The accuracy on the evaluated test images, all at once."""
    network = with_inference(s.network, "ema")
    logits, _, _ = network.forward(s.params, state, change(images(s, s.evaluated, train=False)), train=False)
    return right(logits, s.data.test_labels[s.evaluated])


@each_network
def test_statistics_are_gathered_layer_by_layer_and_with_the_correction_or_without(network: Network) -> None:
    s = some_way_into_training(network)
    for _, own in alone(s):
        batches, population = training_batches(own), with_inference(network, "population")
        by_algorithm_2 = population.with_population_statistics(own.params, own.state, own.batches())
        for found, expected in (
            (by_algorithm_2, slow_population(own, batches, 1)),
            (without_correction(own, by_algorithm_2), slow_population(own, batches, 0)),
            (layer_by_layer(own), slow_population(own, batches, 1, one_by_one=True)),
        ):
            for name, layer in network.layers.items():
                for column in ("mean", "var") if isinstance(layer, BatchNorm) else ():
                    np.testing.assert_allclose(found[name][column], expected[name][column], rtol=1e-9, atol=1e-12)


@each_network
def test_accuracies_are_of_the_same_weights_by_other_statistics(network: Network) -> None:
    s = some_way_into_training(network)
    found = read("inference", s)
    for r, own in alone(s):
        batches = training_batches(own)
        expected = {
            "ema": slow_accuracy(own, own.state),
            "population": slow_accuracy(own, slow_population(own, batches, 1)),
            "biased": slow_accuracy(own, slow_population(own, batches, 0)),
            "layerwise": slow_accuracy(own, slow_population(own, batches, 1, one_by_one=True)),
        }
        assert {name: found[f"accuracy_{name}"][r] for name in expected} == pytest.approx(expected)
        if not any(isinstance(layer, BatchNorm) for layer in network.layers.values()):
            assert found["accuracy_batch"][r] == expected["ema"]
            continue
        own_statistics, parts = with_inference(network, "batch"), []
        for batch in own.evaluated[:18].reshape(3, 6):  # 20 are evaluated; 2 are left
            logits, _, _ = own_statistics.forward(own.params, own.state, images(own, batch, train=False), train=False)
            parts.append(right(logits, own.data.test_labels[batch]))
        assert found["accuracy_batch"][r] == pytest.approx(np.mean(parts))


def test_fewer_test_images_than_a_mini_batch_has_are_one() -> None:
    s = some_way_into_training(NETWORKS["sigmoid, batch norm"])
    few = replace(s, evaluated=s.evaluated[:4])
    expected = few.accuracy(with_inference(s.network, "batch"), s.state)
    np.testing.assert_array_equal(read("inference", few)["accuracy_batch"], expected)


def blurred(x: Array, reach: int = 1) -> Array:
    """Means over what is within reach of each pixel, those at the edges counted as often as they are beyond them."""
    result, steps = np.empty_like(x), range(-reach, reach + 1)
    for at in np.ndindex(x.shape):
        rows = [min(max(at[3] + i, 0), x.shape[3] - 1) for i in steps]
        columns = [min(max(at[4] + j, 0), x.shape[4] - 1) for j in steps]
        result[at] = np.mean([x[(*at[:3], i, j)] for i in rows for j in columns])
    return result


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (17, 2)])
def test_larger_images_are_blurred_further(side: int, reach: int) -> None:
    x = np.random.default_rng(0).uniform(size=(1, 2, 1, side, side))
    _, _, change = CORRUPTIONS["blur"]
    np.testing.assert_allclose(change(x, 1.0, np.random.default_rng(0)), blurred(x, reach), rtol=1e-12)


def corrupted(name: str, by: float, rng: np.random.Generator) -> Callable[[Array], Array]:
    return {
        "contrast": lambda x: x * by,
        "brightness": lambda x: x + by,
        "inversion": lambda x: x + by * (1 - 2 * x),
        "noise": lambda x: x + rng.normal(0, by, x.shape),
        "blur": lambda x: x + by * (blurred(x) - x),
    }[name]


@each_network
def test_corruptions_are_of_test_images_and_of_the_training_images_that_give_statistics(network: Network) -> None:
    s = some_way_into_training(network)
    found = read("corruptions", s)
    normalised = any(isinstance(layer, BatchNorm) for layer in network.layers.values())
    assert len(found) == 2 * sum(len(severities) for _, severities, _ in CORRUPTIONS.values()) == 30
    (own,) = [own for r, own in alone(s) if r == 1]
    for name, (_, severities, _) in CORRUPTIONS.items():
        for i, by in enumerate(severities, start=1):
            accuracy = slow_accuracy(own, own.state, corrupted(name, by, np.random.default_rng(0)))
            assert found[f"accuracy_{name}_{i}"][1] == pytest.approx(accuracy)
            if normalised:
                change = corrupted(name, by, np.random.default_rng(1))
                state = slow_population(own, [change(x) for x in training_batches(own)], 1)
                accuracy = slow_accuracy(own, state, corrupted(name, by, np.random.default_rng(0)))
            assert found[f"accuracy_{name}_{i}_recomputed"][1] == pytest.approx(accuracy)


def test_statistics_recomputed_undo_what_is_affine_and_grows() -> None:
    s = some_way_into_training(mlp([5, 4], 3, xavier, Sigmoid, lambda: BatchNorm(eps=0, inference="population")))

    def logits(name: str, by: float) -> Array:
        change = corrupted(name, by, np.random.default_rng(0))
        state = s.network.with_population_statistics(s.params, s.state, map(change, s.batches()))
        return np.concatenate(
            [z for _, z in s.network.predict(s.params, state, s.data, s.evaluated, float, change=change)]
        )

    clean = logits("brightness", 0)
    for name, by in (("contrast", 0.1), ("brightness", 1), ("inversion", 0.25)):
        np.testing.assert_allclose(logits(name, by), clean, rtol=1e-9)
    for name, by in (("inversion", 1), ("noise", 0.3), ("blur", 1)):
        assert np.abs(logits(name, by) - clean).max() > 0.01


def test_a_network_that_asks_for_population_statistics_has_them_where_nothing_is_recomputed() -> None:
    network = mlp([5, 4], 3, xavier, Sigmoid, lambda: BatchNorm(inference="population"))
    s = some_way_into_training(network)
    state = network.with_population_statistics(s.params, s.state, s.batches())
    expected = s.accuracy(network, state, change=lambda x: 0.1 * x)
    np.testing.assert_array_equal(read("corruptions", s)["accuracy_contrast_3"], expected)


@each_network
def test_companions_are_the_spread_over_mini_batches_over_that_over_examples(network: Network) -> None:
    s = take(network)
    found = read("companions", s)["companions"]
    chosen = np.linspace(0, 69, 60).astype(int)
    for r, own in alone(s):
        logits: dict[int, list[Array]] = {}
        for batch in itertools.islice(minibatches(60, 6, 0), 100):
            z, _, _ = network.forward(own.params, own.state, images(own, chosen[batch]), train=True)
            for i, example in enumerate(batch):
                logits.setdefault(int(example), []).append(z[0, i])
        assert {len(seen) for seen in logits.values()} == {10}
        over_companions = np.mean([np.var(seen, axis=0, ddof=1) for seen in logits.values()])
        over_examples = np.mean(np.var([np.mean(seen, axis=0) for seen in logits.values()], axis=0))
        np.testing.assert_allclose(found[r], math.sqrt(over_companions / over_examples), rtol=1e-9, atol=1e-12)


def test_companions_do_nothing_without_batch_norm_and_are_not_measured_of_one_mini_batch() -> None:
    assert (read("companions", take(NETWORKS["sigmoid"]))["companions"] < 1e-12).all()
    assert (read("companions", take(NETWORKS["sigmoid, batch norm"]))["companions"] > 0.05).all()
    alone_in_it = replace(take(NETWORKS["sigmoid, batch norm"]), batch_size=36)
    assert np.isnan(read("companions", alone_in_it)["companions"]).all()
    assert not np.isnan(read("companions", replace(alone_in_it, batch_size=35))["companions"]).any()
