"""Define who takes part in the contest, and what all of them train."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import Dataset, minibatches
from ..diagnostics import Diagnostic
from ..layers import Array, xavier
from ..network import Network, mlp
from ..optim import SGD, Constant
from ..recipe import ACTIVATIONS, NORMS
from ..training import Measurement, Schedule, Specification, evenly, train

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
    """Pixels of an image."""
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

    @property
    def dims(self) -> list[int]:
        """Return the sizes of the layers: inputs, units of each hidden layer, classes."""
        return [self.inputs, *[self.width] * self.depth, 10]

    @property
    def steps(self) -> int:
        """Return the number of steps of a turn, which takes some tenths of a second."""
        products = sum(a * b for a, b in zip(self.dims, self.dims[1:], strict=False)) * self.batch * self.runs
        return int(np.clip(1.5e9 / products, 2, 256))

    @property
    def rates(self) -> list[float]:
        """Return the learning rate of each run."""
        return [float(rate) for rate in np.geomspace(*RATES, self.runs)]

    def network(self) -> Network:
        """Make the network, which is the same for all runs."""
        return mlp(
            self.dims[1:-1], self.dims[-1], xavier, ACTIVATIONS.entries[self.activation], NORMS.entries[self.norm]
        )


@functools.cache
def stand_in(inputs: int) -> Dataset:
    """Draw noisy binary images of ten classes, as many as MNIST has; of 64 pixels, as many as scikit-learn's digits."""
    rng, count, side = np.random.default_rng(0), 60_000 if inputs > 64 else 1442, round(inputs**0.5)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    prototypes = rng.integers(0, 2, (10, 1, side, side), dtype=np.uint8)
    flipped = rng.integers(0, 256, (count, 1, side, side), dtype=np.uint8) < 64
    images = prototypes[labels] ^ flipped
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
    """A schedule that measures before the first turn, and after each but the last."""

    turn: int

    @property
    def measured_steps(self) -> list[int]:
        return list(range(0, self.steps, self.turn))


class LockStep(Contestant):
    """The training loop of this package, which tells when each step begins."""

    def __init__(
        self,
        case: Case,
        data: Dataset | None = None,
        probe_examples: int = PROBE_EXAMPLES,
        eval_examples: int = 1,
        diagnostics: Mapping[str, Diagnostic] | None = None,
    ) -> None:
        """Begin to train, on the stand-in unless there are ``data``; what is measured is as little as can be."""
        super().__init__(case)
        self.begun: list[float] = []
        """Processor time at the beginning of each step of the turn."""
        spec = Specification(
            networks=[case.network()] * case.runs,
            optimizer=SGD(weight_decay=0),
            learning_rates=case.rates,
            seeds=[0] * case.runs,
            schedule=_EveryTurn(case.steps * TURNS, case.batch, 1, probe_examples, eval_examples, case.steps),
            lr_schedule=Constant(),
            diagnostics=diagnostics or {},
            dtype=np.dtype(np.float32),
            engine="numpy",
        )
        self.events = train(
            spec,
            data or stand_in(case.inputs),
            on_step=lambda step: self.begun.append(time.process_time()),
        )
        next(self.events)

    def turn(self) -> float:
        """Take a turn; its last step, and what is measured after it, is not in the time."""
        self.begun.clear()
        measured = next(self.events)
        assert isinstance(measured, Measurement)  # at these learning rates no run diverges
        self.losses = measured.train_loss
        return (self.begun[-1] - self.begun[0]) / ((self.case.steps - 1) * self.case.runs)


def _begin(case: Case) -> tuple[list[dict[str, Array]], Iterator[Array], Array, Array]:
    """Return initial weights by layer, the stream of mini-batches and the probe batch, as in the training loop."""
    data = stand_in(case.inputs)
    weight_seed, batch_seed = np.random.SeedSequence(0).spawn(2)
    params, _ = case.network().init(np.random.default_rng(weight_seed), data.image_shape)
    probe = evenly(len(data.train_labels), PROBE_EXAMPLES)
    dense: list[dict[str, Array]] = [
        {name: p.astype(np.float32) for name, p in arrays.items()} for arrays in params.values() if "W" in arrays
    ]
    x = data.train_images[probe].reshape(PROBE_EXAMPLES, -1).astype(np.float32)
    return dense, minibatches(len(data.train_labels), case.batch, batch_seed), x, data.train_labels[probe]


class Jax(Contestant):
    """JAX as it is fastest: ``jit`` of ``scan`` over the mini-batches of a turn, of ``vmap`` over runs."""

    def __init__(self, case: Case) -> None:
        """Copy the initial weights, and compile."""
        # Before the first import, for it reads them then.
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
        import jax
        import jax.numpy as jnp

        super().__init__(case)
        dense, self.batches, probe, probe_labels = _begin(case)
        data, eps, momentum, m = stand_in(case.inputs), 1e-5, 0.9, case.batch
        images = jnp.asarray(data.train_images.reshape(len(data.train_images), -1))
        one_hot = jnp.eye(data.classes)[jnp.asarray(data.train_labels)]
        activation = {"sigmoid": jax.nn.sigmoid, "relu": jax.nn.relu}[case.activation]

        def forward(params: Any, state: Any, x: Any, y: Any) -> Any:
            moved = []
            for i, p in enumerate(params):
                x = x @ p["W"]
                if "b" in p:
                    x = x + p["b"]
                if "gamma" in p:
                    mean = x.mean(axis=0)
                    c = x - mean
                    var = jnp.square(c).mean(axis=0)
                    x = c * (p["gamma"] / jnp.sqrt(var + eps)) + p["beta"]
                    new = {"mean": mean, "var": var * (m / (m - 1))}
                    moved.append({n: momentum * state[i][n] + (1 - momentum) * new[n] for n in new})
                if i < case.depth:
                    x = activation(x)
            return -(jax.nn.log_softmax(x) * y).sum(axis=1).mean(), moved

        def step(params: Any, state: Any, lr: Any, x: Any, y: Any) -> Any:
            (_, state), grads = jax.value_and_grad(forward, has_aux=True)(params, state, x, y)
            return jax.tree.map(lambda p, g: p - lr * g, params, grads), state

        lr = jnp.asarray(case.rates, jnp.float32)

        def turn(params: Any, state: Any, batches: Any) -> Any:
            def body(carry: Any, batch: Any) -> Any:
                x = images[batch].astype(jnp.float32)
                return jax.vmap(step, (0, 0, 0, None, None))(*carry, lr, x, one_hot[batch]), None

            return jax.lax.scan(body, (params, state), batches)[0]

        self.probe_losses = jax.jit(jax.vmap(lambda p, s: forward(p, s, probe, jnp.eye(10)[probe_labels])[0]))
        wide = jnp.ones((case.runs, case.width))
        norm = {"gamma": wide, "beta": 0 * wide} if case.norm == "batch" else {}
        hidden, params = len(dense) - 1, []
        for i, p in enumerate(dense):
            stacked = {n: jnp.asarray(np.repeat(a.reshape(1, *a.shape[-2:]), case.runs, axis=0)) for n, a in p.items()}
            params.append(stacked | ({n: a + 0 for n, a in norm.items()} if i < hidden else {}))
        self.carry: Any = params, [{"mean": 0 * wide, "var": wide + 0} for _ in range(hidden)] if norm else []
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


class Torch(Contestant):
    """PyTorch as most write it: modules, autograd and ``torch.optim.SGD``; one run."""

    def __init__(self, case: Case) -> None:
        """Copy the initial weights."""
        import torch

        super().__init__(case)
        torch.set_num_threads(1)
        dense, batches, probe, probe_labels = _begin(case)
        data = stand_in(case.inputs)
        images = torch.from_numpy(data.train_images.reshape(len(data.train_images), -1))
        labels = torch.from_numpy(data.train_labels.astype(np.int64))
        modules: list[Any] = []
        for i, p in enumerate(dense):
            linear = torch.nn.Linear(*p["W"].shape, bias="b" in p)
            linear.weight.data = torch.from_numpy(np.ascontiguousarray(p["W"].T))
            if "b" in p:
                linear.bias.data.zero_()
            modules.append(linear)
            if i < case.depth:
                modules += [torch.nn.BatchNorm1d(case.width)] if case.norm == "batch" else []
                modules.append({"sigmoid": torch.nn.Sigmoid, "relu": torch.nn.ReLU}[case.activation]())
        network, entropy = torch.nn.Sequential(*modules), torch.nn.functional.cross_entropy
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
    "bnrepro": LockStep,
    "JAX": Jax,
    "PyTorch": Torch,
}
"""All who may take part, by the name that tables and figures give them."""

RIVALS = {"JAX": "jax", "PyTorch": "torch"}
"""The contestants that train the same with another package, and take part where it is installed."""
