"""How fast training is on this machine, and beside what: ``python -m bnrepro +benchmark``, or ``+benchmark=quick``.

Everything is in microseconds of processor time per run and step, on one core and with one BLAS thread; a step has its
mini-batch drawn, goes forward and backward, and updates the parameters (SGD). The contestants take turns in one
process, so that drift of the machine hits all alike; medians over the rounds, and the quartiles.

- floor: nothing but the step's matrix products, on finite values, as one ``np.matmul`` per product for all runs;
- bnrepro: the training loop of this package, with R runs in lock-step;
- JAX: ``jit`` of ``scan`` over mini-batches of ``vmap`` over 8 runs; PyTorch: eager, one run. Both train the same
  networks on the same mini-batches, and must end at the same loss (``TOLERANCE``).

What keeps the step from the floor is in :func:`profile`. For evaluating on 10,000 images 113 times in 50,000 steps, the
products alone are 17% of the operations of training, so measuring can't be much below what :func:`measuring` says.

What was tried to bring the step nearer to the floor (Zen 3, OpenBLAS 0.3.31 with its Haswell kernel, R = 8):

================================================================  =====================================================
tried                                                             gave
================================================================  =====================================================
sigmoid by exp in place of tanh                                   kept: 11 µs per layer in place of 18
learning rate multiplied into the gradient of the logits          kept: 7% of a step at 784 inputs, 4% at 64
cross-entropy with classes as rows                                kept: 5.5 µs in place of 9.5
constants made once; batch norm of fewer, in-place operations     kept: 4% to 6% of a step with batch norm
mini-batches by ``take``, binary images by ``astype``             kept: 1% at 64 inputs
update by BLAS ``axpy``                                           dropped: the learning rate in the logits gives more
update inside the product (``gemm`` with β = 1)                   dropped: no faster than product and subtraction
the runs' first layers as one product, W of (D, R·D')             dropped: 4% to 6% of that product; bits not per run
transposed layouts, operands transposed beforehand                dropped: all within 5% of each other
scale and shift of batch norm on tiled rows                       dropped: making the tiles takes what they give
mean over examples as a product with 1/N                          dropped: a constant feature is no longer exactly so
ReLU's gradient by ``where``, ``putmask``, bits or ``sign``       dropped: none faster than ``dy * (y > 0)``
batch norm by the distance from the first example, not the mean   dropped: 1%, for a mean that is less accurate
examples outermost in memory, and small buffers for ufuncs        dropped: broadcasts 30% faster, products slower
groups of 16 to 32 runs                                           dropped: 5–10% less at 64 inputs, 2–8% more at 784
runs of several seeds in a group, if one seed has too few         dropped: −6% to 4% at 64 inputs, 9–18% more at 784
``scipy.special.expit``; ``reciprocal``                           dropped: 2.4 and 1.7 times as long as what is used
================================================================  =====================================================
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from . import figures
from .composition import compose
from .config import ACTIVATIONS, NORMS, Local, RunConfig, Settings
from .data import IDX_FILES, Dataset, minibatches
from .diagnostics import Diagnostic
from .layers import Array, xavier
from .network import Network, mlp
from .optim import SGD
from .store import Store, environment
from .sweep import Progress, expand, run_all
from .train import Schedule, evenly, train

TOLERANCE = 1e-3
"""Relative difference of the losses after a turn, in float32."""

RUNS = (1, 2, 4, 8, 16, 32)
GROWTH: dict[str, Sequence[int]] = {
    "runs": RUNS,
    "width": (100, 200, 500, 1000),
    "depth": (3, 5, 10, 20),
    "batch": (10, 30, 60, 200, 1000),
}
ARMS = [(activation, norm) for activation in figures.ACTIVATIONS for norm in figures.NORMS]
PROBE = 120
RATES = 0.01, 0.1
SWEEP_SIZES = (10, 100, 1000, 10_000)


@dataclass(frozen=True)
class Case:
    """What is trained: the paper's network unless it says otherwise."""

    inputs: int
    activation: str
    norm: str
    runs: int = 8
    width: int = 100
    depth: int = 3
    batch: int = 60

    @property
    def dims(self) -> list[int]:
        """Of the input, of each hidden layer, and the number of classes."""
        return [self.inputs, *[self.width] * self.depth, 10]

    @property
    def steps(self) -> int:
        """Of one turn, which takes some tenths of a second."""
        products = sum(a * b for a, b in zip(self.dims, self.dims[1:], strict=False)) * self.batch * self.runs
        return int(np.clip(1.5e9 / products, 2, 256))

    @property
    def rates(self) -> list[float]:
        """Learning rate of each run."""
        return np.geomspace(*RATES, self.runs).tolist()

    def network(self) -> Network:
        """The same for all runs."""
        return mlp(self.dims[1:-1], self.dims[-1], xavier, ACTIVATIONS[self.activation], NORMS[self.norm])


@functools.cache
def stand_in(inputs: int) -> Dataset:
    """Noisy binary images of ten classes, as many as MNIST has, or as scikit-learn's digits where they are of 64."""
    rng, count, side = np.random.default_rng(0), 60_000 if inputs > 64 else 1442, round(inputs**0.5)
    labels = rng.integers(0, 10, count, dtype=np.uint8)
    prototypes = rng.integers(0, 2, (10, 1, side, side), dtype=np.uint8)
    flipped = rng.integers(0, 256, (count, 1, side, side), dtype=np.uint8) < 64
    images = prototypes[labels] ^ flipped
    return Dataset(images, labels, images[: count // 6], labels[: count // 6], classes=10, scale=1.0)


class Contestant:
    """Takes turns of ``case.steps`` steps; a turn returns processor time per run and step, in seconds."""

    loss: Any = None
    """(R,) on the probe batch after the last turn, where there is one."""

    def __init__(self, case: Case) -> None:
        """Get ready to train the case."""
        self.case = case

    def turn(self) -> float:
        """Train on."""
        begin = time.process_time()
        self.advance()
        return (time.process_time() - begin) / (self.case.steps * self.case.runs)

    def advance(self) -> None:
        """One turn, without the clock."""
        raise NotImplementedError


class Floor(Contestant):
    """The products alone."""

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
        """Forward, then backward; the first layer has no dx."""
        for _ in range(self.case.steps):
            for x, w, y in zip(self.x, self.weights, self.y, strict=True):
                np.matmul(x, w, out=y)
            for i in reversed(range(len(self.x))):
                np.matmul(self.x[i].swapaxes(1, 2), self.dy[i], out=self.dweights[i])
                if i:
                    np.matmul(self.dy[i], self.weights[i].swapaxes(1, 2), out=self.dx[i])


@dataclass(frozen=True)
class _EveryTurn(Schedule):
    """Measures after every turn, for ever."""

    turn: int

    @property
    def measured_steps(self) -> list[int]:
        return list(range(0, self.steps, self.turn))


class LockStep(Contestant):
    """The training loop of this package, whose learning-rate schedule is asked at every step and so tells the time."""

    def __init__(
        self,
        case: Case,
        data: Dataset | None = None,
        probe_examples: int = PROBE,
        eval_examples: int = 1,
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        """Begin to train, on the stand-in unless there are ``data``; what is measured is as little as can be."""
        super().__init__(case)
        self.asked: list[float] = []
        turns, data = 2000, data or stand_in(case.inputs)
        schedule = _EveryTurn(case.steps * turns, case.batch, 1, probe_examples, eval_examples, case.steps)
        networks, sgd, seeds = [case.network()] * case.runs, SGD(weight_decay=0), [0] * case.runs
        self.events = train(networks, sgd, case.rates, seeds, data, schedule, self.lr_schedule, diagnostics)
        next(self.events)

    def lr_schedule(self, step: int) -> float:
        """Constant."""
        self.asked.append(time.process_time())
        return 1.0

    def turn(self) -> float:
        """Train on; what is measured at the end of a turn is not counted, nor is its first step."""
        self.asked.clear()
        self.loss = next(self.events).train_loss  # type: ignore[union-attr]
        begin, end = self.asked[0], self.asked[-2]  # the last was asked by the measurement
        return (end - begin) / ((self.case.steps - 1) * self.case.runs)


def _begin(case: Case) -> tuple[list[Mapping[str, Any]], Iterator[Any], Any, Any]:
    """Initial weights by layer, the stream of mini-batches, and the probe batch: as the training loop has them."""
    data = stand_in(case.inputs)
    weight_seed, batch_seed = np.random.SeedSequence(0).spawn(2)
    params, _ = case.network().init(np.random.default_rng(weight_seed), data.image_shape)
    probe = evenly(len(data.train_labels), PROBE)
    dense: list[Mapping[str, Any]] = [
        {name: np.float32(p) for name, p in arrays.items()} for arrays in params.values() if "W" in arrays
    ]
    x = data.train_images[probe].reshape(PROBE, -1).astype(np.float32)
    return dense, minibatches(len(data.train_labels), case.batch, batch_seed), x, data.train_labels[probe]


class Jax(Contestant):
    """Jit of scan over the mini-batches of a turn, of vmap over runs."""

    def __init__(self, case: Case) -> None:
        """Compile."""
        # Before the first import: as many threads as it needs.
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

        of_probe = jax.jit(jax.vmap(lambda p, s: forward(p, s, probe, jnp.eye(10)[probe_labels])[0]))
        wide = jnp.ones((case.runs, case.width))
        norm = {"gamma": wide, "beta": 0 * wide} if case.norm == "batch" else {}
        hidden, params = len(dense) - 1, []
        for i, p in enumerate(dense):
            stacked = {n: jnp.asarray(np.repeat(a.reshape(1, *a.shape[-2:]), case.runs, axis=0)) for n, a in p.items()}
            params.append(stacked | ({n: a + 0 for n, a in norm.items()} if i < hidden else {}))
        self.carry = params, [{"mean": 0 * wide, "var": wide + 0} for _ in range(hidden)] if norm else []
        example = np.zeros((case.steps, case.batch), np.int32)
        self.compiled = jax.jit(turn, donate_argnums=(0, 1)).lower(*self.carry, example).compile()

        def measure() -> Any:
            return np.asarray(of_probe(*self.carry))

        self.measure = measure

    def turn(self) -> float:
        """Train on, and evaluate without the clock."""
        seconds = super().turn()
        self.loss = self.measure()
        return seconds

    def advance(self) -> None:
        """One call of what was compiled."""
        batches = np.stack([next(self.batches) for _ in range(self.case.steps)]).astype(np.int32)
        self.carry = self.compiled(*self.carry, batches)
        self.carry[0][0]["W"].block_until_ready()


class Torch(Contestant):
    """PyTorch as most write it: modules, autograd and ``torch.optim.SGD``."""

    def __init__(self, case: Case) -> None:
        """Copy the initial weights."""
        import torch

        super().__init__(case)
        torch.set_num_threads(1)
        dense, self.batches, probe, probe_labels = _begin(case)
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
            batch = torch.from_numpy(next(self.batches))
            sgd.zero_grad()
            entropy(network(images[batch].float()), labels[batch]).backward()
            sgd.step()

        def measure() -> Any:
            with torch.no_grad():
                loss = entropy(network(torch.from_numpy(probe)), torch.from_numpy(probe_labels.astype(np.int64)))
            return loss.numpy()[None]

        self.step, self.measure = step, measure

    def turn(self) -> float:
        """Train on, and evaluate without the clock."""
        seconds = super().turn()
        self.loss = self.measure()
        return seconds

    def advance(self) -> None:
        """Step by step."""
        for _ in range(self.case.steps):
            self.step()


NAMES: dict[str, type[Contestant]] = {"floor": Floor, "bnrepro": LockStep, "JAX": Jax, "PyTorch": Torch}
NEEDS = {"JAX": "jax", "PyTorch": "torch"}


def contest(entries: Iterable[tuple[str, Case]], rounds: int) -> pd.DataFrame:
    """Let them take turns; one row each, with median and quartiles over the rounds, in µs per run and step.

    Raises:
        RuntimeError: if two that train the same case do not end at the same loss.
    """
    contestants = [(name, case, NAMES[name](case)) for name, case in entries]
    times: list[list[float]] = [[] for _ in contestants]
    for n in range(rounds + 1):
        order = range(len(contestants)) if n % 2 else reversed(range(len(contestants)))
        for i in order:
            times[i].append(contestants[i][2].turn() * 1e6)
        if n == 0:
            _check_losses(contestants)
    rows = []
    for (name, case, _), measured in zip(contestants, times, strict=True):
        low, median, high = np.percentile(measured[1:], (25, 50, 75))  # the first warmed up
        shape = {key: getattr(case, key) for key in Case.__dataclass_fields__}
        rows.append({**shape, "contestant": name, "median": median, "low": low, "high": high})
    table = pd.DataFrame(rows)
    dims = [key for key in Case.__dataclass_fields__ if key not in ("activation", "norm")]
    floors = table[table["contestant"] == "floor"].set_index(dims)["median"]
    at_floor = [floors.get(tuple(row)) for row in table[dims].itertuples(index=False)]
    return table.assign(ratio=table["median"] / pd.to_numeric(pd.Series(at_floor)))


def _check_losses(contestants: Sequence[tuple[str, Case, Contestant]]) -> None:
    ours = {case: c.loss for name, case, c in contestants if name == "bnrepro"}
    for name, case, c in contestants:
        if name in NEEDS and case in ours and not np.allclose(c.loss, ours[case], rtol=TOLERANCE):
            raise RuntimeError(f"{name} and bnrepro train {case} to different losses: {c.loss} and {ours[case]}")


def profile(rounds: int, table: pd.DataFrame) -> pd.DataFrame:
    """Where the time of a step goes, of 8 runs in lock-step; µs per run and step.

    - products: the floor;
    - calls: of Python and NumPy, which take as long whatever the arrays hold: the time of a network of 2 units with a
      mini-batch of 2, without its floor;
    - passes: what is left, which is arithmetic other than products, and memory;
    - total: all three; over JAX: as a multiple of JAX's, where that took part.
    """
    cases = {arm: Case(64, *arm, width=2, batch=2) for arm in ARMS}
    tiny = contest([("floor", cases[ARMS[0]]), *(("bnrepro", case) for case in cases.values())], rounds)["median"]
    calls = dict(zip(cases, tiny[1:] - tiny[0], strict=True))
    eight = table[table["runs"] == 8].set_index(["inputs", "activation", "norm", "contestant"])["median"]
    rows = []
    for inputs in table["inputs"].unique():
        products = eight[inputs, *ARMS[0], "floor"]
        for arm in ARMS:
            total, jax = eight[inputs, *arm, "bnrepro"], eight.get((inputs, *arm, "JAX"), np.nan)
            row = {"inputs": inputs, "activation": arm[0], "norm": arm[1], "total": total, "products": products}
            rows.append(row | {"calls": calls[arm], "passes": total - products - calls[arm], "over JAX": total / jax})
    return pd.DataFrame(rows)


@contextmanager
def one_core() -> Iterator[None]:
    """One core, where the system lets a process choose, and one BLAS thread."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def steps(rounds: int, runs: Sequence[int] = RUNS, inputs: Sequence[int] = (784, 64)) -> pd.DataFrame:
    """Everybody on the paper's network."""
    tables = []
    for size in inputs:
        first = Case(size, *ARMS[0])
        entries = [("floor", replace(first, runs=r)) for r in runs]
        for activation, norm in ARMS:
            case = Case(size, activation, norm)
            entries += [("bnrepro", replace(case, runs=r)) for r in runs]
            rivals = [("JAX", case), ("PyTorch", replace(case, runs=1))]
            entries += [(name, case) for name, case in rivals if importlib.util.find_spec(NEEDS[name])]
        tables.append(contest(entries, rounds))
    return pd.concat(tables, ignore_index=True)


def growth(rounds: int, over: Mapping[str, Sequence[int]] = GROWTH) -> pd.DataFrame:
    """Time against the size of the work, one dimension at a time, for ReLU at 784 inputs."""
    tables = []
    for dimension, values in over.items():
        entries: list[tuple[str, Case]] = []
        for value in values:
            changed: Any = {dimension: value}
            none, batch = (replace(Case(784, "relu", norm), **changed) for norm in ("none", "batch"))
            entries += [("floor", none), ("bnrepro", none), ("bnrepro", batch)]
        tables.append(contest(entries, rounds).assign(dimension=dimension))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class Witness:
    """A constant learning rate that notes in a folder, by process, when it was first asked for, and the peak memory."""

    folder: str

    def __call__(self, step: int) -> float:
        """Note it."""
        import resource  # not on Windows

        file = Path(self.folder) / str(os.getpid())
        if not file.exists():
            file.write_text(str(time.time()))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        file.with_suffix(".peak").write_text(str(peak))
        return 1.0


def _command(folder: str, *arguments: str) -> float:
    """Wall time of ``python -m bnrepro`` with its results in a folder."""
    begin = time.time()
    places = [] if "--help" in arguments else [f"results_dir={folder}"]
    subprocess.run([sys.executable, "-m", "bnrepro", *arguments, *places], check=True, capture_output=True)
    return time.time() - begin


def measuring_share(run: RunConfig, data: Dataset, turns: int) -> float:
    """Share of the time of a group of 8 runs like this one that goes into measuring and evaluating."""
    model, of = run.model.value, run.train
    case = Case(math.prod(data.image_shape), model.activation, model.norm, batch=of.batch_size)
    group = LockStep(case, data, of.probe_examples, of.eval_examples, run.diagnostic_functions())
    step, measurement = [], []
    for _ in range(turns):
        begin = time.process_time()
        step.append(group.turn() * case.runs)
        measurement.append(time.process_time() - begin - case.steps * step[-1])
    measured = np.median(measurement) * len(of.measured_steps)
    return float(measured / (measured + np.median(step) * of.steps))


def measuring(turns: int) -> dict[str, float]:
    """That share over the arms of the main job, at its default settings and on as many images as MNIST has."""
    found = {}
    for dataset, data in {"digits": None, "mnist": stand_in(784)}.items():
        shares = []
        for activation, norm in ARMS:
            arm = [f"dataset={dataset}", f"model.activation={activation}", f"model.norm={norm}"]
            run = RunConfig.parse(Settings.parse(compose(["+sweep", *arm])).run)
            shares.append(measuring_share(run, data or run.dataset.value.load(), turns))
        found[f"measuring, share of a sweep on {dataset}"] = float(np.mean(shares))
    return found


def _train(runs: Sequence[RunConfig], workers: int) -> tuple[float, float]:
    """Wall time from the start of the workers to the last result in the store, and the steps trained, of all runs."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        begin = time.time()
        run_all(runs, store, Local(n_jobs=workers, group_size=None), Progress(len(runs)))
        seconds, table = time.time() - begin, store.load().runs
    return seconds, table["diverged_at"].fillna(table["steps"]).sum()


def around(quick: bool) -> dict[str, float]:
    """What stands around the step: wall time of commands, throughput, and memory."""
    found = {"--help, seconds": float(np.median([_command("", "--help") for _ in range(3)]))}
    seeds = "sweep.grid.seed=[0]" if quick else "sweep.grid.seed=[0,1,2]"
    with one_core():
        found |= measuring(turns=2 if quick else 9)
    settings = Settings.parse(compose(["+sweep", seeds]))
    runs = expand(settings.run, *settings.grids)
    one, two = (trained / seconds for seconds, trained in (_train(runs, workers) for workers in (1, 2)))
    found |= {"run-steps per second, 1 worker": one, "run-steps per second, 2 workers": two}
    found["2 workers, as a multiple of 1"] = two / one
    with tempfile.TemporaryDirectory() as folder:
        found["+sweep with 2 workers, seconds"] = _command(folder, "+sweep", seeds, "compute.n_jobs=2")
    with tempfile.TemporaryDirectory() as folder:
        notes, images = Path(folder) / "notes", Path(folder) / "images"
        notes.mkdir()
        _write_idx(images, stand_in(784))
        witness = [f"lr_schedule.name={__name__}.Witness", f"+lr_schedule.folder={notes}"]
        mnist = [
            "dataset=mnist",
            f"dataset.root={images}",
            "dataset.sha256=null",
            "train.steps=100",
            "train.measurements=1",
        ]
        begin = time.time()
        _command(folder, "+sweep", *witness, *mnist, "sweep.grid.seed=[0]", "compute.n_jobs=2")
        peaks = [float(path.read_text()) for path in notes.glob("*.peak")]
        first = min(float(path.read_text()) for path in notes.iterdir() if not path.suffix)
        found |= {"first step of a sweep on MNIST, seconds": first - begin, "peak of its workers, MB": max(peaks)}
    return found


def _write_idx(folder: Path, data: Dataset) -> None:
    """As four files like those of MNIST."""
    folder.mkdir()
    for file, array in zip(
        IDX_FILES, (data.train_images, data.train_labels, data.test_images, data.test_labels), strict=True
    ):
        array = array.reshape(len(array), *array.shape[2:])
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / file).write_bytes(header + (255 * array if "images" in file else array).tobytes())


def sweep_sizes(sizes: Sequence[int], run: Mapping[str, Any]) -> pd.DataFrame:
    """Wall time per run of sweeps of many short runs around ``run``, from the grid to the store, on all cores."""
    short = {"train": {"steps": [10], "measurements": [1]}, "optimizer": {"lr": [0.01, 0.1]}}
    rows = []
    for size in sizes:
        begin = time.time()
        runs = expand(run, {**short, "seed": list(range(size // 2))})
        seconds = time.time() - begin + _train(runs, workers=-1)[0]
        rows.append({"number": size, "median": seconds / size * 1e6})
    return pd.DataFrame(rows)


def machine() -> str:
    """Processor, BLAS and what else decides about the time."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    lib = environment()
    pinned = os.environ.get("OPENBLAS_CORETYPE", "not pinned")
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        threads = environment()["blas_threads"]
    return (
        f"{named[1] if named else platform.processor()}, {os.cpu_count()} cores; {lib['blas']}, kernel "
        f"{lib['blas_kernel']} ({pinned}), {threads} thread; Python {platform.python_version()}, NumPy {np.__version__}"
    )


COLOURS = {"floor": "0.6", "bnrepro": "#0072B2", "JAX": "#E69F00", "PyTorch": "#CC79A7"}


def bars(table: pd.DataFrame) -> Figure:
    """Everybody's time per run and step: 8 runs in lock-step, and one with PyTorch."""
    figure = Figure(figsize=(10, 3.6))
    sizes = sorted({*table["inputs"]}, reverse=True)
    shown = table[(table["runs"] == 8) | (table["contestant"] == "PyTorch")]
    names = [name for name in NAMES if name in {*shown["contestant"]}]
    for ax, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        here = shown[shown["inputs"] == size]
        for i, name in enumerate(names):
            mine = here[here["contestant"] == name].set_index(["activation", "norm"])
            rows = [mine.loc[ARMS[0] if name == "floor" else arm] for arm in ARMS]
            heights = np.array([row["median"] for row in rows])
            at = np.arange(len(ARMS)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            spread = np.abs(np.array([[row["low"], row["high"]] for row in rows]).T - heights)
            ax.bar(at, heights, 0.8 / len(names), yerr=spread, color=COLOURS[name], label=name)
            for x, height, above in zip(at, heights, spread[1], strict=True):
                ax.text(x, height + above, f" {height:.0f}", ha="center", va="bottom", fontsize=7, rotation=90)
        norms = {"none": "", "batch": " + BN"}
        ax.set_xticks(range(len(ARMS)), [figures.ACTIVATIONS[a] + norms[n] for a, n in ARMS])
        ax.tick_params(axis="x", labelsize=8)
        ax.set(title=f"{size} inputs", ylabel="µs per run and step")
        ax.margins(y=0.12)
        ax.grid(visible=False, axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure


def growth_curves(table: pd.DataFrame, sizes: pd.DataFrame) -> Figure:
    """Time per run and step, and as a multiple of the floor, against each dimension of the work.

    In the last column the wall time per run against the number of runs.
    """
    labels = {
        "runs": "runs in lock-step",
        "width": "units per layer",
        "depth": "hidden layers",
        "batch": "examples in a mini-batch",
    }
    figure = Figure(figsize=(12, 5))
    axes = figure.subplots(2, len(labels) + 1)
    for (top, bottom), (dimension, label) in zip(axes.T, labels.items(), strict=False):
        here = table[table["dimension"] == dimension]
        lines = {"floor": here[here["contestant"] == "floor"]}
        lines |= {norm: here[(here["contestant"] == "bnrepro") & (here["norm"] == norm)] for norm in figures.NORMS}
        for name, line in lines.items():
            style = {"color": COLOURS[name], "label": name} if name == "floor" else figures.style(name)
            top.plot(line[dimension], line["median"] / 1e3, markersize=4, **style)
            bottom.plot(line[dimension], line["ratio"], markersize=4, **style)
        if dimension == "runs":
            top.set_ylim(bottom=0)
        else:
            _log_scale(top)
        bottom.set(xlabel=label, ylim=(0.95, 2.3))
        values = sorted({*here[dimension]})
        for ax in top, bottom:
            ax.set(xscale="log")
            ax.set_xticks(values, [str(value) for value in values], minor=False, fontsize=7)
            ax.set_xticks([], minor=True)
    axes[0, 0].set_ylabel("ms per run and step")
    axes[1, 0].set_ylabel("multiple of the floor")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    axes[1, -1].remove()
    axes[0, -1].plot(sizes["number"], sizes["median"] / 1e3, color="0.2", marker="o", markersize=4)
    axes[0, -1].set(xscale="log", xlabel="runs in a sweep,\n10 steps each", ylabel="ms of wall time per run")
    axes[0, -1].set_xticks(sizes["number"], [f"{number:,}" for number in sizes["number"]], fontsize=7)
    axes[0, -1].set_xticks([], minor=True)
    _log_scale(axes[0, -1])
    return figure


def _log_scale(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())


def benchmark(settings: Settings) -> None:
    """Measure everything and show it: printed, and as tables and figures in the folder of results."""
    quick, folder, paths = settings.benchmark == "quick", settings.results_dir / "benchmark", list[Path]()

    def show(name: str, table: pd.DataFrame) -> pd.DataFrame:
        print(f"\n{name}\n{table.round(2).to_string(index=False)}", flush=True)
        paths.append(folder / f"{name}.csv")
        with figures.whole(paths[-1]) as partial:
            table.assign(machine=machine()).to_csv(partial, index=False)
        return table

    print(machine(), flush=True)
    with one_core():
        of_steps = show("steps", steps(2 if quick else 9, (1, 8) if quick else RUNS))
        show("profile", profile(2 if quick else 9, of_steps))
        of_growth = show("growth", growth(1 if quick else 5))
    sizes = show("sweep_sizes", sweep_sizes(SWEEP_SIZES[:2] if quick else SWEEP_SIZES, settings.run))
    show("around", pd.DataFrame(around(quick).items(), columns=["what", "value"]))
    with figures.look():
        paths += figures.save(bars(of_steps), folder, "steps")
        paths += figures.save(growth_curves(of_growth, sizes), folder, "growth")
    for path in paths:
        print(os.path.relpath(path))
