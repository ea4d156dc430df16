"""Whole networks: gradients, taps, what backward is spared, and the run axis."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from gradients import assert_gradients

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import (
    Array,
    Arrays,
    Backward,
    Concatenate,
    Dense,
    Flatten,
    Layer,
    Normal,
    ReLU,
    Shape,
    Sigmoid,
    softmax_cross_entropy,
    xavier,
)
from bnrepro.network import IMAGES, Network, Placement, cnn, inception, mlp, select_runs, stack_runs
from bnrepro.optim import Params

each_activation = pytest.mark.parametrize("activation", [Sigmoid, ReLU])
each_norm = pytest.mark.parametrize("norm", [None, BatchNorm], ids=["no norm", "batch norm"])
each_mode = pytest.mark.parametrize("train", [True, False], ids=["train", "inference"])
Make = Callable[[], Layer]


def asking() -> Layer:
    """A norm that asks for population statistics."""
    return BatchNorm(inference="population")


@dataclass
class Setup:
    """A network with the parameters and state of some runs, all of them drawn, and a mini-batch."""

    network: Network
    params: Params
    state: Params
    x: Array
    targets: Array

    def loss(self, params: Params, *, train: bool) -> tuple[Array, Params]:
        logits, _, backward = self.network.forward(params, self.state, self.x, train=train)
        loss, dlogits = softmax_cross_entropy(logits, self.targets)
        return loss, backward(dlogits)


MODULES = [[1, 1, 2, 1, 1, 1], [0, 1, 1, 1, 2, 0]]
"""Widths of an Inception with and without stride, as small as can be."""


def set_up(
    activation: Make,
    norm: Make | None,
    runs: int = 2,
    examples: int = 8,
    image: Shape = (1, 2, 3),
    hidden: tuple[int, ...] = (5, 4),
    dtype: Any = np.float64,
) -> Setup:
    network, rng = mlp(hidden, 3, xavier, activation, norm), np.random.default_rng(0)
    inits = [network.init(rng, image) for _ in range(runs)]
    params = stack_runs([p for p, _ in inits], np.dtype(float))
    params = {
        layer: {name: a + 0.3 * rng.standard_normal(a.shape) for name, a in arrays.items()}
        for layer, arrays in params.items()
    }
    state = stack_runs([s for _, s in inits], np.dtype(float))
    _, state, _ = network.forward(params, state, rng.standard_normal((runs, examples, *image)), train=True)
    x, targets = rng.standard_normal((1, examples, *image)), np.eye(3)[rng.integers(0, 3, (1, examples))]
    return Setup(network, astype(params, dtype), astype(state, dtype), x.astype(dtype), targets.astype(dtype))


def astype(tree: Params, dtype: Any) -> Params:
    return {layer: {name: a.astype(dtype) for name, a in arrays.items()} for layer, arrays in tree.items()}


def flat(tree: Params) -> Arrays:
    return {f"{layer} {name}": a for layer, arrays in tree.items() for name, a in arrays.items()}


def bits(tree: Params) -> dict[str, bytes]:
    return {name: a.tobytes() for name, a in flat(tree).items()}


def test_the_layer_that_sees_the_images_is_the_one_that_skips_features() -> None:
    layers = mlp((5, 4), 3, xavier, Sigmoid, None).layers.values()
    assert [layer.sparse for layer in layers if isinstance(layer, Dense)] == [True, False, False]


@each_activation
@each_norm
@each_mode
def test_gradients_of_the_loss_equal_central_differences(activation: Make, norm: Make | None, train: bool) -> None:
    s = set_up(activation, norm)
    cotangent = np.array([0.7, -1.3])  # of the two runs' losses
    _, _, backward = s.network.forward(s.params, s.state, s.x, train=train)
    logits, _, _ = s.network.forward(s.params, s.state, s.x, train=train)
    grads = backward(softmax_cross_entropy(logits, s.targets)[1] * cotangent[:, None, None])

    def loss(at: Arrays) -> Array:
        params = {layer: {name: at[f"{layer} {name}"] for name in arrays} for layer, arrays in s.params.items()}
        return s.loss(params, train=train)[0]

    assert_gradients(loss, flat(s.params), cotangent, flat(grads))


@each_activation
@each_norm
@pytest.mark.parametrize("runs", [2, 5, 8])
@pytest.mark.parametrize("margins", [False, True], ids=["one mini-batch", "mini-batches with margins"])
def test_a_run_alone_gives_the_bits_of_the_run_in_a_group(
    activation: Make, norm: Make | None, runs: int, margins: bool
) -> None:
    # The sizes of the paper's network, Section 4.1, at which BLAS takes other paths than at those above.
    s = set_up(activation, norm, runs, examples=60, image=(1, 28, 28), hidden=(100, 100, 100), dtype=np.float32)
    if margins:  # of other widths in every run, some so narrow that they are not skipped
        s.x = np.repeat(s.x, runs, axis=0)
        for r in range(runs):
            s.x[r, :, :, :, : 5 + 2 * r] = 0
    loss, grads = s.loss(s.params, train=True)
    _, state, _ = s.network.forward(s.params, s.state, s.x, train=True)
    for r in range(runs):
        run = np.array([r])
        x = s.x[run] if margins else s.x
        alone = Setup(s.network, select_runs(s.params, run), select_runs(s.state, run), x, s.targets)
        loss_alone, grads_alone = alone.loss(alone.params, train=True)
        assert loss_alone.tobytes() == loss[run].tobytes()
        assert bits(grads_alone) == bits(select_runs(grads, run))
        _, state_alone, _ = s.network.forward(alone.params, alone.state, x, train=True)
        assert bits(state_alone) == bits(select_runs(state, run))


@each_activation
@each_norm
@each_mode
def test_taps_receive_what_enters_each_nonlinearity_in_order(activation: Make, norm: Make | None, train: bool) -> None:
    s = set_up(activation, norm)
    taps: list[Array] = []
    logits, _, _ = s.network.forward(s.params, s.state, s.x, train=train, taps=taps)
    expected, x = [], s.x
    for name, layer in s.network.layers.items():
        if isinstance(layer, Sigmoid | ReLU):
            expected.append(x)
        x, _, _ = layer.forward(s.params[name], s.state[name], x, train=train)
    assert [t.shape for t in taps] == [(2, 8, 5), (2, 8, 4)]
    for tap, z in zip(taps, expected, strict=True):
        np.testing.assert_array_equal(tap, z)
    np.testing.assert_array_equal(logits, x)
    types: list[Any] = [type(layer) for layer in s.network.nonlinearities.values()]
    assert types == [activation, activation]
    assert s.network.weights_before("nonlinearity2") == "dense2"


@each_norm
def test_forward_and_backward_change_none_of_their_arguments(norm: Make | None) -> None:
    s = set_up(Sigmoid, norm)
    for a in [s.x, s.targets, *flat(s.params).values(), *flat(s.state).values()]:
        a.flags.writeable = False  # so that changing it raises
    for train in True, False:
        first, again = s.loss(s.params, train=train), s.loss(s.params, train=train)
        assert first[0].tobytes() == again[0].tobytes()
        assert bits(first[1]) == bits(again[1])


def test_only_training_gives_a_new_state() -> None:
    s = set_up(Sigmoid, BatchNorm)
    _, trained, _ = s.network.forward(s.params, s.state, s.x, train=True)
    _, same, _ = s.network.forward(s.params, s.state, s.x, train=False)
    assert bits(same) == bits(s.state)
    changed = {name for name, a in flat(trained).items() if a.tobytes() != flat(s.state)[name].tobytes()}
    assert changed == {f"norm{i} {name}" for i in (1, 2) for name in ("mean", "var", "updates")}


@dataclass
class Spy(Layer):
    """A layer that notes how its backward is called."""

    layer: Layer
    calls: list[bool] = field(default_factory=list)

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        return self.layer.init(rng, in_shape)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        y, state, backward = self.layer.forward(params, state, x, train=train)

        def spied(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            self.calls.append(need_dx)
            return backward(dy, need_dx=need_dx)

        return y, state, spied


def test_backward_stops_at_the_first_layer_with_parameters_and_computes_no_gradient_of_its_input() -> None:
    spies = {
        "flatten": Spy(Flatten()),
        "sigmoid": Spy(Sigmoid()),
        "first": Spy(Dense(4, xavier)),
        "norm": Spy(BatchNorm()),
        "last": Spy(Dense(3, xavier)),
    }
    network = Network(dict(spies))
    params, state = (stack_runs([tree], np.dtype(float)) for tree in network.init(np.random.default_rng(0), (1, 2, 3)))
    x = np.random.default_rng(1).standard_normal((1, 8, 1, 2, 3))
    logits, _, backward = network.forward(params, state, x, train=True)
    grads = backward(logits)
    calls = {name: spy.calls for name, spy in spies.items()}
    assert calls == {"flatten": [], "sigmoid": [], "first": [False], "norm": [True], "last": [True]}
    assert set(flat(grads)) == set(flat(params))


@each_norm
def test_mlp_stacks_dense_norm_and_nonlinearity_without_bias_before_a_norm(norm: Make | None) -> None:
    layers = mlp([5, 4], 3, xavier, ReLU, norm).layers
    block = ["dense", "norm", "nonlinearity"] if norm else ["dense", "nonlinearity"]
    assert list(layers) == ["flatten", *(f"{name}{i}" for i in (1, 2) for name in block), "logits"]
    params, _ = Network(layers).init(np.random.default_rng(0), (1, 2, 3))
    shapes = {name: a.shape for name, a in flat(params).items() if name.split()[1] in ("W", "b")}
    biases = {} if norm else {"dense1 b": (1, 5), "dense2 b": (1, 4)}
    weights = {"dense1 W": (6, 5), "dense2 W": (5, 4), "logits W": (4, 3), "logits b": (1, 3)}
    assert shapes == weights | biases


@pytest.mark.parametrize("make", [mlp, lambda hidden, *parts, **given: cnn(hidden, 3, *parts, **given)])
@pytest.mark.parametrize(
    ("norm", "placement", "bias", "order", "has_bias"),
    [
        (BatchNorm, "before", None, ["norm", "nonlinearity"], False),
        (BatchNorm, "before", True, ["norm", "nonlinearity"], True),
        (BatchNorm, "after", None, ["nonlinearity", "norm"], True),
        (BatchNorm, "after", False, ["nonlinearity", "norm"], False),
        (None, "before", None, ["nonlinearity"], True),
        (None, "before", False, ["nonlinearity"], False),
    ],
)
def test_norm_and_bias_are_where_they_are_asked_for(
    make: Any, norm: Make | None, placement: Placement, bias: bool | None, order: list[str], has_bias: bool
) -> None:
    network = make([5, 4], 3, xavier, ReLU, norm, 0.0, placement, bias)
    params, _ = network.init(np.random.default_rng(0), (1, 6, 6))
    names = [name for name in network.layers if name.startswith(("dense", "conv", "norm", "nonlinearity"))]
    linear = names[0].rstrip("1")
    assert names == [f"{name}{i}" for i in (1, 2) for name in (linear, *order)]
    assert [("b" in params[f"{linear}{i}"]) for i in (1, 2)] == [has_bias, has_bias]
    assert "b" in params["logits"]


def test_equal_seeds_give_equal_weights_with_and_without_norm_and_scaled_ones_at_another_std() -> None:
    def weights(std: float, activation: Make, norm: Make | None, seed: int) -> Arrays:
        network = mlp([5, 4], 3, Normal(std), activation, norm)
        params, _ = network.init(np.random.default_rng(seed), (1, 2, 3))
        return {name: a for name, a in flat(params).items() if name.endswith("W")}

    plain, normed = weights(1, Sigmoid, None, seed=7), weights(1, ReLU, BatchNorm, seed=7)
    doubled, other = weights(2, Sigmoid, None, seed=7), weights(1, Sigmoid, None, seed=8)
    assert list(plain) == list(normed) == ["dense1 W", "dense2 W", "logits W"]
    for name, w in plain.items():
        np.testing.assert_array_equal(normed[name], w)
        np.testing.assert_array_equal(doubled[name], 2 * w)
        assert (other[name] != w).all()


def test_stacked_floats_get_the_dtype_and_keys_and_counters_keep_every_bit() -> None:
    trees = [{"dropout": {"key": np.array([2**62 + run]), "share": np.array([0.5])}} for run in range(2)]
    stacked = stack_runs(trees, np.dtype(np.float32))["dropout"]
    assert stacked["key"].tolist() == [[2**62], [2**62 + 1]]
    assert (stacked["key"].dtype, stacked["share"].dtype) == (np.dtype(np.int64), np.dtype(np.float32))


def test_stack_and_select_are_inverse() -> None:
    network = mlp([5], 3, xavier, Sigmoid, BatchNorm)
    trees = [network.init(np.random.default_rng(seed), (1, 2, 3))[0] for seed in range(4)]
    stacked = stack_runs(trees, np.dtype(np.float32))
    assert {a.dtype for a in flat(stacked).values()} == {np.dtype(np.float32)}
    for r, tree in enumerate(trees):
        assert bits(select_runs(stacked, np.array(r))) == bits(astype(tree, np.float32))
    by_mask = select_runs(stacked, np.array([False, True, False, True]))
    assert bits(by_mask) == bits(select_runs(stacked, np.array([1, 3])))
    assert bits(by_mask) == bits(stack_runs([trees[1], trees[3]], np.dtype(np.float32)))


@each_activation
@each_norm
@each_mode
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_of_convolutional_and_of_dropped_out_networks_equal_central_differences(
    activation: Make, norm: Make | None, train: bool, dropout: float
) -> None:
    rng, image = np.random.default_rng(0), (2, 4, 5)
    x, targets, cotangent = rng.standard_normal((1, 8, *image)), np.eye(3)[rng.integers(0, 3, (1, 8))], np.array([1.0])
    for network in (
        cnn([2, 2], 3, 3, xavier, activation, norm, dropout),
        mlp([4, 3], 3, xavier, activation, norm, dropout),
        mlp([4, 3], 3, xavier, activation, norm, dropout, "after"),
        cnn([2, 2], 3, 3, xavier, activation, norm, dropout, "after"),
    ):
        params, state = (stack_runs([tree], np.dtype(float)) for tree in network.init(rng, image))
        for b in (arrays["b"] for arrays in params.values() if "b" in arrays):
            b += 0.1 * rng.standard_normal(b.shape)  # else a unit whose inputs are all dropped is at ReLU's kink
        _, state, _ = network.forward(params, state, x, train=True)
        s = Setup(network, params, state, x, targets)

        def loss(at: Arrays, s: Setup = s) -> Array:
            named = {layer: {name: at[f"{layer} {name}"] for name in arrays} for layer, arrays in s.params.items()}
            return s.loss(named, train=train)[0]

        assert_gradients(loss, flat(params), cotangent, flat(s.loss(params, train=train)[1]))


@each_activation
@each_norm
@each_mode
def test_gradients_of_an_inception_equal_central_differences(activation: Make, norm: Make | None, train: bool) -> None:
    s = set_up_images(inception(2, MODULES, 3, xavier, activation, norm), runs=1, examples=6, image=(2, 5, 4))
    grads = s.loss(s.params, train=train)[1]

    def loss(at: Arrays) -> Array:
        params = {layer: {name: at[f"{layer} {name}"] for name in arrays} for layer, arrays in s.params.items()}
        return s.loss(params, train=train)[0]

    assert_gradients(loss, flat(s.params), np.ones(1), flat(grads))


def set_up_images(network: Network, runs: int, examples: int, image: Shape, dtype: Any = np.float64) -> Setup:
    rng = np.random.default_rng(1)
    inits = [network.init(rng, image) for _ in range(runs)]
    params, state = (stack_runs(trees, np.dtype(dtype)) for trees in zip(*inits, strict=True))
    for arrays in params.values():
        for name, a in arrays.items():
            if name != "W":  # else a unit may be at ReLU's kink
                a += 0.1 * rng.standard_normal(a.shape)
    x, targets = rng.standard_normal((1, examples, *image)), np.eye(3)[rng.integers(0, 3, (1, examples))]
    _, state, _ = network.forward(params, state, x.astype(dtype), train=True)
    return Setup(network, params, state, x.astype(dtype), targets.astype(dtype))


@each_norm
def test_a_run_of_an_inception_alone_gives_the_bits_of_the_run_in_a_group(norm: Make | None) -> None:
    network = inception(8, [[8, 8, 12, 4, 8, 4], [0, 8, 8, 4, 8, 0]], 3, xavier, ReLU, norm)
    s = set_up_images(network, runs=3, examples=32, image=(3, 16, 16), dtype=np.float32)
    loss, grads = s.loss(s.params, train=True)
    for r in range(3):
        run = np.array([r])
        alone = Setup(network, select_runs(s.params, run), select_runs(s.state, run), s.x, s.targets)
        loss_alone, grads_alone = alone.loss(alone.params, train=True)
        assert loss_alone.tobytes() == loss[run].tobytes()
        assert bits(grads_alone) == bits(select_runs(grads, run))


def test_inception_puts_the_branches_of_each_module_side_by_side() -> None:
    network = inception(16, [[8, 8, 12, 4, 8, 4], [0, 12, 16, 8, 20, 0]], 10, xavier, ReLU, BatchNorm, dropout=0.1)
    assert network.sources == {
        "conv1a": ("pool0",),
        "conv1b1": ("pool0",),
        "conv1c1": ("pool0",),
        "conv1d": ("pool0",),
        "concatenate1": ("nonlinearity1a", "nonlinearity1b2", "nonlinearity1c3", "nonlinearity1d"),
        "conv2b1": ("concatenate1",),
        "conv2c1": ("concatenate1",),
        "pool2": ("concatenate1",),
        "concatenate2": ("nonlinearity2b2", "nonlinearity2c3", "pool2"),
    }
    of_branch = [name for name in network.layers if "1d" in name]
    assert of_branch == ["conv1d", "pool1d", "norm1d", "nonlinearity1d"]
    assert [*network.layers][-3:] == ["average", "dropout", "logits"]
    shapes = network.shapes((3, 32, 30))
    assert shapes[IMAGES] == (3, 32, 30)
    assert shapes["pool0"] == (16, 16, 15)
    assert shapes["concatenate1"] == (8 + 12 + 8 + 4, 16, 15)
    assert shapes["concatenate2"] == (16 + 20 + 32, 8, 8)
    assert (shapes["average"], shapes["logits"]) == ((68,), (10,))
    assert network.largest_images((3, 32, 30)) == 16 * 32 * 30
    assert network.weights_before("nonlinearity1d") == "conv1d"
    assert network.weights_before("logits") == "conv2c3"  # its sources are the branches, the last of them is pooled


def test_norm_and_bias_of_an_inception_are_where_they_are_asked_for() -> None:
    network = inception(2, MODULES, 3, xavier, ReLU, BatchNorm, placement="after", bias=False)
    assert [name for name in network.layers if "1d" in name] == ["conv1d", "pool1d", "nonlinearity1d", "norm1d"]
    assert network.sources["concatenate1"] == ("norm1a", "norm1b2", "norm1c3", "norm1d")
    params, _ = network.init(np.random.default_rng(0), (1, 4, 4))
    assert [name for name, arrays in params.items() if "b" in arrays] == ["logits"]


BRANCHES = {"a": Dense(2, xavier), "b": Sigmoid(), "c": Dense(2, xavier), "d": Concatenate(), "e": Dense(3, xavier)}


def of_flat_images(layers: dict[str, Layer], sources: dict[str, tuple[str, ...]]) -> Network:
    return Network({"flatten": Flatten(), **layers}, sources)


def test_a_gradient_adds_up_over_all_layers_that_take_an_output() -> None:
    network = of_flat_images(BRANCHES, {"c": ("a",), "d": ("b", "a", "c", "a")})
    s = set_up_images(network, runs=2, examples=5, image=(1, 2, 2))
    p = s.params
    logits, _, backward = network.forward(p, s.state, s.x, train=True)
    a = s.x.reshape(1, 5, 4) @ p["a"]["W"] + p["a"]["b"]
    b, c = 1 / (1 + np.exp(-a)), a @ p["c"]["W"] + p["c"]["b"]
    d = np.concatenate([b, a, c, a], axis=2)
    np.testing.assert_allclose(logits, d @ p["e"]["W"] + p["e"]["b"], rtol=1e-12)
    dy = np.random.default_rng(1).standard_normal(logits.shape)
    dd = dy @ p["e"]["W"].swapaxes(1, 2)
    db, da, dc, again = np.split(dd, 4, axis=2)
    da = da + again + db * b * (1 - b) + dc @ p["c"]["W"].swapaxes(1, 2)
    grads = backward(dy)
    np.testing.assert_allclose(grads["a"]["b"], da.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(grads["a"]["W"], s.x.reshape(1, 5, 4).swapaxes(1, 2) @ da, rtol=1e-12)


def test_what_depends_on_no_parameter_gets_no_gradient_in_any_branch() -> None:
    spies = {name: Spy(layer) for name, layer in {"flatten": Flatten(), **BRANCHES}.items()}
    network = Network(dict(spies), {"b": ("flatten",), "c": ("flatten",), "d": ("a", "b", "c")})
    s = set_up_images(network, runs=1, examples=5, image=(1, 2, 2))
    grads = s.loss(s.params, train=True)[1]
    calls = {name: spy.calls for name, spy in spies.items()}
    assert calls == {"flatten": [], "a": [False], "b": [], "c": [False], "d": [True], "e": [True]}
    assert set(flat(grads)) == set(flat(s.params))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"a": ("b",)}, "sources of a: must be layers before it, not 'b'"),
        ({"e": ("nothing", "d")}, "sources of e: must be layers before it, not 'nothing'"),
        ({"c": ("a",), "d": ("a", "c")}, "layer b: must be a source of a layer behind it"),
        ({"f": ("a",)}, "sources of f: must be of a layer, one of flatten, a, b, c, d, e"),
    ],
)
def test_wrong_sources_are_refused(sources: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        of_flat_images(BRANCHES, sources)


@each_norm
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cnn_stacks_convolution_norm_nonlinearity_and_pooling(norm: Make | None, dropout: float) -> None:
    network = cnn([2, 3], 3, 10, xavier, ReLU, norm, dropout)
    block = ["conv", "norm", "nonlinearity", "pool"] if norm else ["conv", "nonlinearity", "pool"]
    stages = [f"{name}{i}" for i in (1, 2) for name in block]
    assert list(network.layers) == [*stages, "flatten", *(["dropout"] if dropout else []), "logits"]
    params, _ = network.init(np.random.default_rng(0), (1, 9, 8))
    assert params["logits"]["W"].shape == (3 * 2 * 2, 10)  # 9 × 8, pooled to 4 × 4 and 2 × 2
    assert ("b" in params["conv1"]) == (norm is None)


@pytest.mark.parametrize(
    "network",
    [
        mlp([5, 4], 3, xavier, Sigmoid, asking),
        cnn([2, 3], 3, 3, xavier, ReLU, asking),
        inception(2, MODULES[:1], 3, xavier, ReLU, asking),
    ],
)
def test_population_statistics_equal_brute_force_over_the_whole_training_set(network: Network) -> None:
    rng = np.random.default_rng(0)
    training_set = rng.standard_normal((12, 10, 1, 4, 4))  # 12 mini-batches of 10
    inits = [network.init(rng, (1, 4, 4)) for _ in range(2)]
    params, state = (stack_runs(trees, np.dtype(float)) for trees in zip(*inits, strict=True))
    _, state, _ = network.forward(params, state, training_set[:1], train=True)  # some other moving averages
    found = network.with_population_statistics(params, state, (batch[None] for batch in training_set))

    expected: dict[str, list[tuple[Array, Array]]] = {}
    for batch in training_set:
        outputs = {IMAGES: batch[None]}
        for name, layer in network.layers.items():
            x: Any = [outputs[source] for source in network.inputs[name]]
            x = x[0] if len(x) == 1 else tuple(x)
            if isinstance(layer, BatchNorm):
                axes = (1, *range(3, x.ndim))
                both = x.mean(axis=axes, keepdims=True), x.var(axis=axes, keepdims=True, ddof=1)
                expected.setdefault(name, []).append(both)
            outputs[name], _, _ = layer.forward(params[name], state[name], x, train=True)
    assert len(expected) == sum(isinstance(layer, BatchNorm) for layer in network.layers.values()) > 1
    for name, statistics in expected.items():
        means, variances = zip(*statistics, strict=True)
        np.testing.assert_allclose(found[name]["mean"], np.mean(means, axis=0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(found[name]["var"], np.mean(variances, axis=0), rtol=1e-12)


def never() -> Iterator[Array]:
    raise AssertionError("a mini-batch was drawn")
    yield


@pytest.mark.parametrize("norm", [None, BatchNorm, lambda: BatchNorm(inference="batch")])
def test_no_mini_batch_is_drawn_where_no_layer_asks_for_population_statistics(norm: Make | None) -> None:
    network = mlp([4], 3, xavier, ReLU, norm)
    params, state = (stack_runs([tree], np.dtype(float)) for tree in network.init(np.random.default_rng(0), (1, 2, 3)))
    assert network.with_population_statistics(params, state, never()) is state
