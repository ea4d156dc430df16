"""One training run as plainly as NumPy can say it: from the words of a command line to the numbers that must come out.

Nothing here is the package's: no run axis, and none of its layers, optimisers, data, loop or configuration. It is meant
to be read beside the paper, from top to bottom; it is slow, and computes in float64 whatever ``train.dtype`` says. What
the paper leaves open is as the package documents it: which random numbers are drawn and in which order, which examples
are looked at, and when. Dropout masks are not taken from the package either, but drawn anew (:meth:`Run.mask`).

Axes: N examples, H height, W width, and last D features or C channels, so that batch norm is one formula for both.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

Array = NDArray[Any]
Params = dict[str, Array]
"""W1, b1, gamma1, beta1, W2, …: by the number of the layer, of which the last gives the logits."""

CONF = Path(__file__).parent.parent / "conf"
TEST_BATCH = 256
"""Test images at a time, which matters where a test batch is normalised by its own statistics."""


def settings(command_line: str) -> Any:
    """``conf/`` with a command line put in: GROUP=OPTION chooses a file, KEY=VALUE a value."""
    base = OmegaConf.load(CONF / "config.yaml")
    choices = dict(pair for entry in base.defaults if isinstance(entry, DictConfig) for pair in entry.items())
    given = [word.lstrip("+").split("=", 1) for word in command_line.split()]
    choices |= {key: value for key, value in given if key in choices}
    groups = {
        g: OmegaConf.load(CONF / g / f"{choices[g]}.yaml") for g in ("dataset", "model", "optimizer", "lr_schedule")
    }
    values = OmegaConf.from_dotlist([f"{key}={value}" for key, value in given if key not in choices])
    return OmegaConf.merge(base, groups, values)


# Data


@functools.cache
def digits(binarize: bool) -> tuple[Array, Array, Array, Array]:
    """Images (N, 8, 8, 1) and labels to train on, then to test on: of each class every fifth."""
    found = load_digits()
    images = found.images >= 8 if binarize else found.images / 16
    seen, test = [0] * 10, []
    for label in found.target:
        seen[label] += 1
        test.append(seen[label] % 5 == 0)
    x, labels, tested = images[..., None].astype(float), found.target, np.array(test)
    return x[~tested], labels[~tested], x[tested], labels[tested]


def minibatches(seed: Any, count: int, size: int, order: str = "reshuffled") -> Iterator[Array]:
    """In each epoch a permutation, cut into mini-batches, the first one again if it is fixed; what is left is left out.

    With replacement there are no epochs.
    """
    rng = np.random.default_rng(seed)
    while order == "replacement":
        yield rng.integers(0, count, size)
    permutation = rng.permutation(count)
    while True:
        for begin in range(0, count - size + 1, size):
            yield permutation[begin : begin + size]
        if order != "fixed":
            permutation = rng.permutation(count)


def evenly(count: int, wanted: int) -> Array:
    """Indices of ``wanted`` of ``count`` examples, from the first to the last."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int)


# Parts of a network


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^−z)."""
    return 1 / (1 + np.exp(-z))


ACTIVATIONS: dict[str, Any] = {
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.where(z > 0, z, 0), lambda z: np.where(z > 0, 1, 0)),
}
"""g and its derivative."""

INACTIVE: dict[str, Any] = {
    "sigmoid": lambda z: np.mean((sigmoid(z) < 0.05) | (sigmoid(z) > 0.95)),
    "tanh": lambda z: np.mean(np.abs(np.tanh(z)) > 0.95),
    "relu": lambda z: np.mean(np.max(z, axis=0) <= 0),
}
"""Share of the outputs within 0.05 of where they end; of ReLU, share of the units that are 0 for every example."""

STD: dict[str, Any] = {
    "normal": lambda std, fan_in, fan_out: std,
    "xavier": lambda std, fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out)),
    "he": lambda std, fan_in, fan_out: math.sqrt(2 / fan_in),
}


def batch_norm(x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    """Algorithm 1, over all axes but the last: y, μ_B and the biased σ²_B."""
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axis=axes)
    var = ((x - mean) ** 2).mean(axis=axes)
    return gamma * (x - mean) / np.sqrt(var + eps) + beta, mean, var


def batch_norm_gradients(dy: Array, x: Array, gamma: Array, eps: float) -> tuple[Array, Array, Array]:
    """The six equations of Section 3: ∂ℓ/∂x, ∂ℓ/∂γ and ∂ℓ/∂β."""
    axes = tuple(range(x.ndim - 1))
    m = x[..., 0].size
    _, mean, var = batch_norm(x, gamma, 0 * gamma, eps)
    x_hat = (x - mean) / np.sqrt(var + eps)
    dx_hat = dy * gamma
    dvar = (dx_hat * (x - mean) * -0.5 * (var + eps) ** -1.5).sum(axis=axes)
    dmean = (-dx_hat / np.sqrt(var + eps)).sum(axis=axes) + dvar * (-2 * (x - mean)).sum(axis=axes) / m
    dx = dx_hat / np.sqrt(var + eps) + dvar * 2 * (x - mean) / m + dmean / m
    return dx, (dy * x_hat).sum(axis=axes), dy.sum(axis=axes)


def padded(u: Array, weights: Array) -> Array:
    """Images (N, H, W, C) in a frame of zeros, so that a convolution keeps their size."""
    k = weights.shape[2] // 2
    return np.pad(u, ((0, 0), (k, k), (k, k), (0, 0)))


def convolution(u: Array, weights: Array) -> Array:
    """y[n, p, q, f] = Σ_{c, i, j} W[f, c, i, j] u[n, p + i, q + j, c], u in its frame of zeros."""
    _, height, width, _ = u.shape
    offsets, framed = itertools.product(range(weights.shape[2]), repeat=2), padded(u, weights)
    return sum((framed[:, i : i + height, j : j + width] @ weights[:, :, i, j].T for i, j in offsets), np.zeros(()))


def convolution_gradients(dy: Array, u: Array, weights: Array) -> tuple[Array, Array]:
    """∂ℓ/∂u and ∂ℓ/∂W."""
    _, height, width, _ = u.shape
    framed, k = padded(u, weights), weights.shape[2] // 2
    dframed, dweights = np.zeros_like(framed), np.zeros_like(weights)
    for i, j in itertools.product(range(weights.shape[2]), repeat=2):
        dweights[:, :, i, j] = np.einsum("npqf,npqc->fc", dy, framed[:, i : i + height, j : j + width])
        dframed[:, i : i + height, j : j + width] += dy @ weights[:, :, i, j]
    return dframed[:, k : k + height, k : k + width], dweights


CORNERS = list(itertools.product((0, 1), repeat=2))


def max_pooling(x: Array) -> Array:
    """The largest of each 2 × 2 pixels."""
    largest: Array = np.max([x[:, i::2, j::2] for i, j in CORNERS], axis=0)
    return largest


def max_pooling_gradient(dy: Array, x: Array) -> Array:
    """∂ℓ/∂x: all of it to the largest, of equals to the first."""
    dx, first = np.zeros_like(x), np.argmax([x[:, i::2, j::2] for i, j in CORNERS], axis=0)
    for number, (i, j) in enumerate(CORNERS):
        dx[:, i::2, j::2] = dy * (first == number)
    return dx


# A run


class Run:
    """One network and its training.

    Attributes:
        p: the parameters.
        memory: the optimiser's, one array per parameter.
        seen: μ_B and σ²_B · m/(m−1) of every batch norm in every mini-batch so far.
        curves: one row per measured step.
        layers: one row per measured step and layer.
        diverged_at: after how many updates the loss left the finite range; None if it did not.
        test_accuracy: in the end, of the whole test set; None if it diverged.
    """

    def __init__(self, command_line: str) -> None:
        """Read the settings, and draw the weights."""
        self.s = s = settings(command_line)
        self.x, self.labels, self.x_test, self.labels_test = digits(s.dataset.binarize)
        self.images = s.model.name == "cnn"
        hidden = list(s.model.channels if self.images else s.model.hidden)
        self.g, self.slope = ACTIVATIONS[s.model.activation]
        self.options: dict[str, Any] = {"eps": 1e-5, "momentum": 0.9, "inference": "ema"} | dict(s.model.norm_options)
        self.depth = len(hidden)

        weight_seed, self.batch_seed = np.random.SeedSequence(s.seed).spawn(2)
        rng = np.random.default_rng(weight_seed)
        draw = STD[s.model.init.scheme]
        self.p: Params = {}
        size = 1 if self.images else 64  # what enters the next layer: channels of the image, or its pixels
        for i, units in enumerate(hidden, start=1):
            area = s.model.kernel**2 if self.images else 1
            shape = (units, size, s.model.kernel, s.model.kernel) if self.images else (size, units)
            self.p[f"W{i}"] = draw(s.model.init.std, size * area, units * area) * rng.standard_normal(shape)
            if s.model.norm == "none":
                self.p[f"b{i}"] = np.zeros(units)
            else:  # β takes the place of b
                self.p[f"gamma{i}"], self.p[f"beta{i}"] = np.ones(units), np.zeros(units)
            size = units
        if self.images:
            size *= (8 // 2**self.depth) ** 2
        self.p[f"W{self.depth + 1}"] = draw(s.model.init.std, size, 10) * rng.standard_normal((size, 10))
        self.p[f"b{self.depth + 1}"] = np.zeros(10)
        self.keys = [own.integers(2**63) for own in rng.spawn(self.depth)]
        self.memory = {name: np.zeros_like(a) for name, a in self.p.items()}
        self.seen: list[list[tuple[Array, Array]]] = []
        self.curves: list[dict[str, float]] = []
        self.layers: list[dict[str, float]] = []
        self.diverged_at: int | None = None
        self.test_accuracy: float | None = None

    def mask(self, number: int, step: int, shape: tuple[int, ...]) -> Array:
        """Inverted dropout's factors: 0 at this rate, else 1 / (1 − rate).

        Each dropout layer has a stream of Philox 4×64, whose key is drawn by a child of the generator of the weights;
        mini-batch ``step`` takes numbers from counter step · 2^192 on.
        """
        rate = self.s.model.dropout
        stream = np.random.Philox(key=self.keys[number], counter=[0, 0, 0, step])
        mask: Array = (np.random.Generator(stream).random(shape, np.float32) >= rate) / (1 - rate)
        return mask

    def forward(
        self, p: Params, x: Array, step: int = 0, statistics: list[tuple[Array, Array]] | None = None
    ) -> tuple[Array, list[dict[str, Array]]]:
        """The logits (N, 10), and for each layer what its gradients need.

        With ``statistics``, (E[x], Var[x]) for each batch norm, it is inference: those normalise, and nothing is
        dropped. Without, it is training: each mini-batch is normalised by its own, and dropout has got to ``step``.
        """
        train, tape = statistics is None, list[dict[str, Array]]()
        if not self.images:
            x = x.reshape(len(x), -1)
        for i in range(1, self.depth + 1):
            layer = {"u": x}
            h = layer["h"] = convolution(x, p[f"W{i}"]) if self.images else x @ p[f"W{i}"]
            if self.s.model.norm == "none":
                z = h + p[f"b{i}"]
            elif statistics is None or self.options["inference"] == "batch":
                z, layer["mean"], layer["var"] = batch_norm(h, p[f"gamma{i}"], p[f"beta{i}"], self.options["eps"])
            else:  # Algorithm 2, step 11
                mean, var = statistics[i - 1]
                z = p[f"gamma{i}"] * (h - mean) / np.sqrt(var + self.options["eps"]) + p[f"beta{i}"]
            layer["z"] = z
            x = layer["y"] = self.g(z)
            if self.images:
                x = max_pooling(x)
            elif train and self.s.model.dropout:
                layer["mask"] = self.mask(i - 1, step, x.shape)
                x = x * layer["mask"]
            tape.append(layer)
        layer = {}
        if self.images:  # flat, in the order (C, H, W)
            layer["pooled"] = x
            x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
            if train and self.s.model.dropout:
                layer["mask"] = self.mask(0, step, x.shape)
                x = x * layer["mask"]
        layer["u"] = x
        last = self.depth + 1
        return x @ p[f"W{last}"] + p[f"b{last}"], [*tape, layer]

    def loss_and_gradients(self, p: Params, x: Array, labels: Array, step: int) -> tuple[float, Params, list[Any]]:
        """Mean cross-entropy in nats, its gradients, and the tape of the forward pass."""
        logits, tape = self.forward(p, x, step)
        one_hot = np.eye(10)[labels]
        shifted = logits - logits.max(axis=1, keepdims=True)  # so that no exponential overflows
        total = np.exp(shifted).sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) - (shifted * one_hot).sum(axis=1))

        last, layer = self.depth + 1, tape[-1]
        dlogits = (np.exp(shifted) / total - one_hot) / len(labels)
        grads = {f"W{last}": layer["u"].T @ dlogits, f"b{last}": dlogits.sum(axis=0)}
        dx = dlogits @ p[f"W{last}"].T
        if self.images:
            dx = dx * layer.get("mask", 1)
            n, height, width, channels = layer["pooled"].shape
            dx = dx.reshape(n, channels, height, width).transpose(0, 2, 3, 1)
        for i in range(self.depth, 0, -1):
            layer = tape[i - 1]
            dy = max_pooling_gradient(dx, layer["y"]) if self.images else dx * layer.get("mask", 1)
            dz = dy * self.slope(layer["z"])
            if self.s.model.norm == "none":
                dh, grads[f"b{i}"] = dz, dz.sum(axis=tuple(range(dz.ndim - 1)))
            else:
                found = batch_norm_gradients(dz, layer["h"], p[f"gamma{i}"], self.options["eps"])
                dh, grads[f"gamma{i}"], grads[f"beta{i}"] = found
            if self.images:
                dx, grads[f"W{i}"] = convolution_gradients(dh, layer["u"], p[f"W{i}"])
            else:
                dx, grads[f"W{i}"] = dh @ p[f"W{i}"].T, layer["u"].T @ dh
        return float(loss), grads, tape

    def update(self, p: Params, grads: Params, memory: Params, step: int) -> None:
        """One step of the optimiser, in place, at the rate in force after ``step`` updates."""
        o, lr = self.s.optimizer, self.rate(step)
        for name in p:
            g = grads[name] + (o.weight_decay * p[name] if name.startswith("W") else 0)
            if o.name == "sgd":
                p[name] = p[name] - lr * g
            elif o.name == "momentum":
                memory[name] = o.momentum * memory[name] - lr * g
                p[name] = p[name] + memory[name]
            elif o.name == "adagrad":
                memory[name] = memory[name] + g**2
                p[name] = p[name] - lr * g / (np.sqrt(memory[name]) + o.eps)

    def rate(self, step: int) -> float:
        """The learning rate in force after ``step`` updates."""
        lr, schedule = self.s.optimizer.lr, self.s.lr_schedule
        if schedule.name == "step":
            lr *= schedule.factor ** (step // schedule.every)
        elif schedule.name == "exponential":
            lr *= schedule.factor ** (step / schedule.every)
        return float(lr)

    def train(self) -> "Run":
        """Train, and measure on the way."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of a run that diverges
            self._train()
        return self

    def _train(self) -> None:
        t = self.s.train
        batches = minibatches(self.batch_seed, len(self.x), t.batch_size, t.order)
        measured = measured_steps(t.steps, t.measurements, t.early_measurements)
        for step in range(t.steps):
            if step in measured:
                self.measure(step)
            batch = next(batches)
            loss, grads, tape = self.loss_and_gradients(self.p, self.x[batch], self.labels[batch], step)
            if not loss <= 1000:  # nor if it is no number
                self.diverged_at = step
                return
            self.seen.append(unbiased(tape))
            self.update(self.p, grads, self.memory, step)
        if self.measure(t.steps) <= 1000:
            self.test_accuracy = self.accuracy(len(self.x_test), t.steps)
        else:
            self.diverged_at = t.steps

    def measure(self, step: int) -> float:
        """Add the rows of this step; return the loss on the probe batch."""
        probe = evenly(len(self.x), self.s.train.probe_examples)
        x, labels = self.x[probe], self.labels[probe]
        loss, grads, tape = self.loss_and_gradients(self.p, x, labels, step)
        batch = next(minibatches(step, len(self.x), self.s.train.batch_size))
        shifts = self.gradient_shifts(x, labels, step), self.gradient_shifts(self.x[batch], self.labels[batch], step)
        norms = []
        for i, ((before, after), (own_before, own_after)) in enumerate(zip(*shifts, strict=True), start=1):
            row: dict[str, float] = {"step": step, "layer": i}
            row |= {"shift_norm": length(before - after), "shift_cosine": cosine(before, after)}
            row["minibatch_gradient_norm"] = length(own_before)
            row["minibatch_shift_norm"] = length(own_before - own_after)
            row["minibatch_shift_cosine"] = cosine(own_before, own_after)
            if i <= self.depth:
                z = tape[i - 1]["z"]
                row |= {f"p{q}": float(np.percentile(z, q)) for q in (15, 50, 85)}
                row["inactive"] = float(INACTIVE[self.s.model.activation](z))
                row["gradient_norm"] = length(before)
                norms.append(length(before))
            self.layers.append(row)
        self.curves.append(
            {
                "step": step,
                "train_loss": loss,
                "test_accuracy": self.accuracy(self.s.train.eval_examples, step),
                "gradient_norm": math.sqrt(sum(length(g) ** 2 for g in grads.values())),
                "gradient_ratio": norms[0] / norms[-1],
            }
        )
        return loss

    def gradient_shifts(self, x: Array, labels: Array, step: int) -> list[tuple[Array, Array]]:
        """Santurkar et al. 2018, Definition 2.1: the gradient of each W_i before and after an update of those below."""
        _, grads, _ = self.loss_and_gradients(self.p, x, labels, step)
        stepped, memory, found = dict(self.p), dict(self.memory), []
        self.update(stepped, grads, memory, step)
        for i in range(1, self.depth + 2):
            below = {name: (stepped if int(name.strip(ascii_letters)) < i else self.p)[name] for name in self.p}
            found.append((grads[f"W{i}"], self.loss_and_gradients(below, x, labels, step)[1][f"W{i}"]))
        return found

    def accuracy(self, examples: int, step: int) -> float:
        """Share of so many test images whose largest logit is that of their label."""
        statistics = self.statistics(step)
        chosen, correct = evenly(len(self.x_test), examples), 0
        for begin in range(0, len(chosen), TEST_BATCH):
            batch = chosen[begin : begin + TEST_BATCH]
            logits, _ = self.forward(self.p, self.x_test[batch], statistics=statistics)
            correct += int((logits.argmax(axis=1) == self.labels_test[batch]).sum())
        return correct / len(chosen)

    def statistics(self, step: int) -> list[tuple[Array, Array]]:
        """E[x] and Var[x] of each batch norm, for inference."""
        if self.s.model.norm == "none":
            return []
        if self.options["inference"] == "population":  # Algorithm 2: over many mini-batches at the weights as they are
            size = self.s.train.batch_size
            batches = itertools.islice(minibatches(0, len(self.x), size), min(50, len(self.x) // size))
            seen = [unbiased(self.forward(self.p, self.x[b], step + k)[1]) for k, b in enumerate(batches)]
            weights = np.ones(len(seen))
        else:  # over those that were trained on, the last with weight 1, the one before it with momentum, …
            seen = self.seen
            weights = self.options["momentum"] ** np.arange(len(seen))[::-1].astype(float)
        if not seen:
            units = [len(self.p[f"gamma{i}"]) for i in range(1, self.depth + 1)]
            return [(np.zeros(n), np.ones(n)) for n in units]
        return [tuple(np.average(layer, axis=0, weights=weights)) for layer in zip(*seen, strict=True)]


def unbiased(tape: list[dict[str, Array]]) -> list[tuple[Array, Array]]:
    """μ_B and m/(m−1) · σ²_B of each batch norm."""
    found = []
    for layer in tape:
        if "mean" in layer:
            m = layer["h"][..., 0].size
            found.append((layer["mean"], m / (m - 1) * layer["var"]))
    return found


def length(a: Array) -> Any:
    """Euclidean norm."""
    return np.sqrt((a**2).sum())


def cosine(a: Array, b: Array) -> float:
    """Cosine of the angle between two."""
    return float((a * b).sum() / (length(a) * length(b)))


def measured_steps(steps: int, measurements: int, factor: bool | float) -> set[int]:
    """0; growing by a factor up to the even interval, of 1.5 if none is given; then evenly, and the last."""
    interval, early = max(1, steps // measurements), {0}
    n = 1.0
    while factor and n < interval:
        early.add(int(n))
        n *= 1.5 if factor is True else factor
    return {0, steps} | {n for n in early if n < interval} | set(range(0, steps, interval))
