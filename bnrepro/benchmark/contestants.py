"""Define who takes part in the contest, and what all of them train."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..data import Dataset, evenly, minibatches
from ..layers import Array, xavier
from ..measuring import Diagnostic
from ..network import Network, cnn, mlp
from ..optim import SGD, Constant
from ..recipe import ACTIVATIONS, NORMS
from ..training import Measurement, Schedule, Specification, train

IMAGES = [(784, "sparse"), (784, "dense"), (64, "dense")]
"""The images of the contest, by pixels and kind: as MNIST's, as Fashion-MNIST's, and as scikit-learn's digits."""

Engine = Literal["numpy", "compiled"]
ENGINES: tuple[Engine, ...] = ("numpy", "compiled")
"""What computes: ``train.engine``."""

ARMS = [(activation, norm) for activation in ("sigmoid", "relu") for norm in ("none", "batch")]
"""Activation and norm of the networks that are trained."""

PROBE_EXAMPLES = 120
"""Training examples on which the losses are compared."""

RATES = 0.01, 0.1
"""Learning rates of the first and of the last run in lock-step; those between are evenly spaced in their logarithm."""

TURNS = 2000
"""Turns that the training loop of this package has been told to train for: more than anyone will ask for."""


@dataclass(frozen=True)
class Case:
    """The work of a contest: the paper's network unless it says otherwise."""

    inputs: int
    """Pixels of an image, in all of its colours."""
    images: str
    """``sparse`` or ``dense``: see :func:`stand_in`."""
    activation: str
    norm: str
    runs: int = 8
    """Runs in lock-step."""
    width: int = 100
    """Units of each hidden layer."""
    depth: int = 3
    """Hidden layers."""
    batch: int = 60
    """Examples in a mini-batch."""

    channels: tuple[int, ...] = ()
    """Feature maps of each stage of a convolutional network, which has 3 × 3 kernels and then no hidden layers."""

    @property
    def dims(self) -> list[int]:
        """Return the sizes of the layers of a network without convolutions: inputs, units, classes."""
        return [self.inputs, *[self.width] * self.depth, 10]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of an image, (C, H, W): of three colours if it has the pixels of CIFAR-10's."""
        colours = 3 if self.inputs == 3072 else 1
        side = round((self.inputs / colours) ** 0.5)
        return colours, side, side

    @property
    def steps(self) -> int:
        """Return the number of steps of a turn, which takes some tenths of a second."""
        sizes = [self.image_shape[0], *self.channels] if self.channels else self.dims
        products = [a * b for a, b in itertools.pairwise(sizes)]
        if self.channels:  # at every position, of which each stage leaves a quarter
            products = [n * 9 * self.image_shape[1] ** 2 // 4**i for i, n in enumerate(products)]
        return int(np.clip(1.5e9 / (sum(products) * self.batch * self.runs), 2, 256))

    @property
    def rates(self) -> list[float]:
        """Return the learning rate of each run."""
        return [float(rate) for rate in np.geomspace(*RATES, self.runs)]

    def network(self) -> Network:
        """Make the network, which is the same for all runs."""
        parts = xavier, ACTIVATIONS.entries[self.activation], NORMS.entries[self.norm]
        return cnn(self.channels, 3, 10, *parts) if self.channels else mlp(self.dims[1:-1], 10, *parts)

    def data(self) -> Dataset:
        """Return the images that it is trained on."""
        return stand_in(self.image_shape, self.images)


@functools.cache
def stand_in(shape: tuple[int, int, int], kind: str) -> Dataset:
    """Draw binary images (C, H, W) of ten classes, as many as MNIST has; small ones as many as scikit-learn's digits.

    Every pixel is 1 by its own chance, which for each class is half or one and a half times its mean over the classes.
    Of ``dense`` images this mean is 1/2 everywhere: half of the values are not 0 in Fashion-MNIST and the digits, too.
    Of ``sparse`` ones it falls off from the centre, so that they have what MNIST's have once they are binary: 13% ones,
    in mini-batches of 60 some 450 pixels of 784 that are ever 1, and margins that never are.
    """
    rng, (_, side, _) = np.random.default_rng(0), shape
    count = 1442 if side == 8 else 60_000 if side == 28 else 10_000
    from_centre = np.arange(side) - (side - 1) / 2
    radius = np.hypot(from_centre[:, np.newaxis], from_centre) / side
    mean = 0.43 * np.exp(-((3 * radius) ** 5)) if kind == "sparse" else np.full((side, side), 0.5)
    chances = 256 * mean * (0.5 + rng.integers(0, 2, (10, *shape)))
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    drawn = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    images = (drawn < chances.astype(np.uint8)[labels]).view(np.uint8)
    return Dataset(images, labels, images[: count // 6], labels[: count // 6], classes=10, scale=1.0)


class Contestant:
    """A participant, who takes turns of ``case.steps`` steps of training."""

    losses: Array | None = None
    """The losses (R,) on the probe batch after the last turn; None of one who does not train."""

    def __init__(self, case: Case) -> None:
        """Get ready to train the case."""
        self.case = case

    def turn(self) -> float:
        """Take a turn and measure the losses after it; return its processor time per run and step, in seconds."""
        begin = time.process_time()
        self.advance()
        seconds = time.process_time() - begin
        self.losses = self.measure()
        return seconds / (self.case.steps * self.case.runs)

    def advance(self) -> None:
        """Take a turn, without the clock."""
        raise NotImplementedError

    def measure(self) -> Array | None:
        """Return the losses (R,) on the probe batch, of one who trains."""
        return None


class Floor(Contestant):
    """The matrix products of a step alone."""

    def __init__(self, case: Case) -> None:
        """Draw operands of the shapes of the case."""
        super().__init__(case)
        rng, layers = np.random.default_rng(0), list(zip(case.dims, case.dims[1:], strict=False))
        runs, n = case.runs, case.batch

        def draw(shape: tuple[int, ...]) -> Array:
            return rng.standard_normal(shape, np.float32)

        self.x = [draw((runs if i else 1, n, d)) for i, (d, _) in enumerate(layers)]
        self.weights = [draw((runs, *shape)) / np.float32(shape[0]) for shape in layers]
        self.dy = [draw((runs, n, d)) for _, d in layers]
        self.y, self.dweights = [dy.copy() for dy in self.dy], [w.copy() for w in self.weights]
        self.dx = [np.empty((runs, n, d), np.float32) for d, _ in layers]

    def advance(self) -> None:
        """Multiply forward, then backward; the first layer has no dx."""
        for _ in range(self.case.steps):
            for x, w, y in zip(self.x, self.weights, self.y, strict=True):
                np.matmul(x, w, out=y)
            for i in reversed(range(len(self.x))):
                np.matmul(self.x[i].swapaxes(1, 2), self.dy[i], out=self.dweights[i])
                if i:
                    np.matmul(self.dy[i], self.weights[i].swapaxes(1, 2), out=self.dx[i])


@dataclass(frozen=True)
class _EveryTurn(Schedule):
    """A schedule that measures before the first turn, and twice after each but the last."""

    turn: int

    @property
    def measured_steps(self) -> list[int]:
        return sorted([*range(0, self.steps, self.turn), *range(self.turn, self.steps, self.turn)])


class Ours(Contestant):
    """The training loop of this package, with either engine."""

    measuring: float
    """Processor time of what is measured after a turn, in seconds."""

    def __init__(
        self,
        case: Case,
        engine: Engine = "numpy",
        data: Dataset | None = None,
        probe_examples: int = PROBE_EXAMPLES,
        eval_examples: int = 1,
        diagnostics: Mapping[str, Diagnostic] | None = None,
    ) -> None:
        """Begin to train, on the stand-in unless there are ``data``; what is measured is as little as can be."""
        super().__init__(case)
        spec = Specification(
            networks=[case.network()] * case.runs,
            optimizer=SGD(weight_decay=0),
            learning_rates=case.rates,
            seeds=[0] * case.runs,
            schedule=_EveryTurn(case.steps * TURNS, case.batch, 1, probe_examples, eval_examples, case.steps),
            lr_schedule=Constant(),
            diagnostics=diagnostics or {},
            dtype=np.dtype(np.float32),
            engine=engine,
        )
        self.events = train(spec, data or case.data())
        next(self.events)

    def turn(self) -> float:
        """Take a turn; what is measured after it is measured twice, to take it off the time."""
        begin = time.process_time()
        measured = next(self.events)
        after = time.process_time()
        next(self.events)
        self.measuring = time.process_time() - after
        assert isinstance(measured, Measurement)  # at these learning rates no run diverges
        self.losses = measured.train_loss
        return (after - begin - self.measuring) / (self.case.steps * self.case.runs)


def _begin(case: Case) -> tuple[list[dict[str, Array]], Iterator[Array], Array, Array]:
    """Return initial weights by layer, the stream of mini-batches and the probe batch, as in the training loop."""
    data = case.data()
    weight_seed, batch_seed = np.random.SeedSequence(0).spawn(2)
    params, _ = case.network().init(np.random.default_rng(weight_seed), data.image_shape)
    probe = evenly(len(data.train_labels), PROBE_EXAMPLES)
    of_layers: list[dict[str, Array]] = [
        {name: p.astype(np.float32) for name, p in arrays.items()} for arrays in params.values() if "W" in arrays
    ]
    x = _images(case)[probe].astype(np.float32)
    return of_layers, minibatches(len(data.train_labels), case.batch, batch_seed), x, data.train_labels[probe]


def _images(case: Case) -> Array:
    """Return the training images, as rows (N, D) for a network without convolutions."""
    images = case.data().train_images
    return images if case.channels else images.reshape(len(images), -1)


def _begin_many(case: Case) -> tuple[Any, Any]:
    """Return the initial parameters and state of all runs, as arrays with a run axis."""

    def of_all_runs(a: Array) -> Array:
        return np.repeat(a.reshape(1, *a.shape[-2:]), case.runs, axis=0)

    params, hidden = [{name: of_all_runs(a) for name, a in p.items()} for p in _begin(case)[0]], case.depth
    if case.norm == "none":
        return params, []
    one, zero = (np.full((case.runs, case.width), value, np.float32) for value in (1, 0))
    params[:hidden] = [p | {"gamma": one, "beta": zero} for p in params[:hidden]]
    return params, [{"mean": zero, "var": one} for _ in range(hidden)]


def _loss(case: Case, activation: Any, log_softmax: Any) -> Callable[..., Any]:
    """Return the loss of one run as a function for JAX or PyTorch to differentiate.

    It takes parameters and state of all layers, x (N, D) and targets (N, K), and returns the loss and the new state.
    """
    eps, momentum, m = 1e-5, 0.9, case.batch

    def loss(params: Any, state: Any, x: Any, y: Any) -> Any:
        moved = []
        for i, p in enumerate(params):
            x = x @ p["W"]
            if "b" in p:
                x = x + p["b"]
            if "gamma" in p:
                mean = x.mean(0)
                c = x - mean
                var = (c * c).mean(0)
                x = c * (p["gamma"] / (var + eps) ** 0.5) + p["beta"]
                new = {"mean": mean, "var": var * (m / (m - 1))}
                moved.append({n: momentum * state[i][n] + (1 - momentum) * new[n] for n in new})
            if i < case.depth:
                x = activation(x)
        return -(log_softmax(x) * y).sum(1).mean(), moved

    return loss


class Jax(Contestant):
    """JAX as it is fastest: ``jit`` of ``lax.map`` over runs, of ``scan`` over the mini-batches of a turn."""

    def __init__(self, case: Case) -> None:
        """Copy the initial weights, and compile."""
        # Before the first import, for it reads them then.
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
        import jax
        import jax.numpy as jnp

        super().__init__(case)
        _, self.batches, probe, probe_labels = _begin(case)
        data = case.data()
        images, one_hot = jnp.asarray(_images(case)), jnp.eye(data.classes)[jnp.asarray(data.train_labels)]
        loss = _loss(case, {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}[case.activation], jax.nn.log_softmax)
        gradient = jax.grad(loss, has_aux=True)

        def turn(params: Any, state: Any, batches: Any) -> Any:
            def train_run(of_run: Any) -> Any:
                *begun, lr = of_run

                def step(carry: Any, batch: Any) -> Any:
                    params, state = carry
                    grads, state = gradient(params, state, images[batch].astype(jnp.float32), one_hot[batch])
                    return (jax.tree.map(lambda p, g: p - lr * g, params, grads), state), None

                return jax.lax.scan(step, tuple(begun), batches)[0]

            return jax.lax.map(train_run, (params, state, jnp.asarray(case.rates, jnp.float32)))

        self.probe_losses = jax.jit(jax.vmap(lambda p, s: loss(p, s, probe, jnp.eye(10)[probe_labels])[0]))
        self.carry: Any = jax.tree.map(lambda a: jnp.array(a), _begin_many(case))  # copies, to be donated
        example = np.zeros((case.steps, case.batch), np.int32)
        self.compiled = jax.jit(turn, donate_argnums=(0, 1)).lower(*self.carry, example).compile()

    def advance(self) -> None:
        """Call once what was compiled, and wait for it."""
        batches = np.stack([next(self.batches) for _ in range(self.case.steps)]).astype(np.int32)
        self.carry = self.compiled(*self.carry, batches)
        self.carry[0][0]["W"].block_until_ready()

    def measure(self) -> Array:
        """Return the losses (R,) on the probe batch, normalised by its own statistics."""
        return np.asarray(self.probe_losses(*self.carry))


class TorchCompiled(Contestant):
    """PyTorch as it is fastest: ``torch.compile`` of a step of ``torch.func.vmap`` over runs."""

    def __init__(self, case: Case) -> None:
        """Copy the initial weights; the first step compiles."""
        import torch

        super().__init__(case)
        torch.set_num_threads(1)
        _, self.batches, probe, probe_labels = _begin(case)
        data = case.data()
        images, one_hot = torch.from_numpy(_images(case)), torch.eye(data.classes)[data.train_labels.astype(np.int64)]
        activation = {"sigmoid": torch.sigmoid, "relu": torch.relu}[case.activation]
        loss = _loss(case, activation, functools.partial(torch.log_softmax, dim=1))
        gradients = torch.func.vmap(torch.func.grad(loss, has_aux=True), (0, 0, None, None))
        tree, lr = torch.utils._pytree, torch.tensor(case.rates, dtype=torch.float32)

        def step(params: Any, state: Any, batch: Any) -> Any:
            grads, state = gradients(params, state, images[batch].float(), one_hot[batch])
            return tree.tree_map(lambda p, g: p - lr.view(-1, *[1] * (p.dim() - 1)) * g, params, grads), state

        def probe_losses(params: Any, state: Any) -> Any:
            targets = torch.eye(10)[probe_labels.astype(np.int64)]
            return torch.func.vmap(lambda p, s: loss(p, s, torch.from_numpy(probe), targets)[0])(params, state)

        self.carry: Any = tree.tree_map(torch.tensor, _begin_many(case))
        self.step, self.probe_losses, self.tensor = torch.compile(step), probe_losses, torch.from_numpy

    def advance(self) -> None:
        """Train the mini-batches of a turn, step by step."""
        for _ in range(self.case.steps):
            self.carry = self.step(*self.carry, self.tensor(next(self.batches)))

    def measure(self) -> Array:
        """Return the losses (R,) on the probe batch, normalised by its own statistics."""
        return np.asarray(self.probe_losses(*self.carry))


class Torch(Contestant):
    """PyTorch as most write it: modules, autograd and ``torch.optim.SGD``; one run."""

    def __init__(self, case: Case, *, channels_last: bool = False) -> None:
        """Copy the initial weights; images and weights of convolutions have their channels last if so told."""
        import torch

        super().__init__(case)
        torch.set_num_threads(1)
        weights, batches, probe, probe_labels = _begin(case)
        layout = torch.channels_last if channels_last else torch.preserve_format
        images = torch.from_numpy(_images(case)).contiguous(memory_format=layout)
        labels = torch.from_numpy(case.data().train_labels.astype(np.int64))
        modules: list[Any] = []
        for p in weights:
            w, bias = torch.from_numpy(p["W"]), "b" in p
            if convolution := w.dim() == 4:
                maps, colours, kernel, _ = w.shape
                layer: Any = torch.nn.Conv2d(colours, maps, kernel, padding=kernel // 2, bias=bias)
                norm: Any = torch.nn.BatchNorm2d(maps)
            else:
                w = w.T.contiguous()
                layer, norm = torch.nn.Linear(*w.T.shape, bias=bias), torch.nn.BatchNorm1d(len(w))
            layer.weight.data = w
            if bias:
                layer.bias.data.zero_()
            if p is weights[-1]:
                modules += [torch.nn.Flatten(), layer] if case.channels else [layer]
            else:
                modules += [layer, norm] if case.norm == "batch" else [layer]
                modules.append({"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}[case.activation]())
                modules += [torch.nn.MaxPool2d(2)] if convolution else []
        network, entropy = torch.nn.Sequential(*modules).to(memory_format=layout), torch.nn.functional.cross_entropy
        sgd = torch.optim.SGD(network.parameters(), lr=case.rates[0])

        def step() -> None:
            batch = torch.from_numpy(next(batches))
            sgd.zero_grad()
            entropy(network(images[batch].float()), labels[batch]).backward()
            sgd.step()

        def probe_losses() -> Any:
            with torch.no_grad():
                loss = entropy(network(torch.from_numpy(probe)), torch.from_numpy(probe_labels.astype(np.int64)))
            return loss.numpy()[None]

        self.step, self.probe_losses = step, probe_losses

    def advance(self) -> None:
        """Train the mini-batches of a turn, step by step."""
        for _ in range(self.case.steps):
            self.step()

    def measure(self) -> Array:
        """Return the loss (1,) on the probe batch, normalised by its own statistics."""
        return np.asarray(self.probe_losses())


CONTESTANTS: dict[str, Callable[[Case], Contestant]] = {
    "floor": Floor,
    "bnrepro": Ours,
    "compiled": functools.partial(Ours, engine="compiled"),
    "JAX": Jax,
    "PyTorch compiled": TorchCompiled,
    "PyTorch": Torch,
    "PyTorch channels last": functools.partial(Torch, channels_last=True),
}
"""All who may take part, by the name that tables and figures give them."""

RIVALS = {
    "compiled": "numba",
    "JAX": "jax",
    "PyTorch compiled": "torch",
    "PyTorch": "torch",
    "PyTorch channels last": "torch",
}
"""The contestants that train the same as ``bnrepro`` with another package, and take part where it is installed."""


def takes_part(name: str) -> bool:
    """Tell whether what the contestant needs is installed; ``torch.compile`` needs a C++ compiler, too."""
    compiler = name != "PyTorch compiled" or shutil.which(os.environ.get("CXX", "g++"))
    return bool(compiler and (name not in RIVALS or importlib.util.find_spec(RIVALS[name])))
