"""The lock-step loop against runs trained alone and against a slow and obvious twin."""

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrepro.batchnorm import BatchNorm
from bnrepro.data import Dataset, divided, fitted, minibatches
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.layers import (
    Array,
    Arrays,
    Backward,
    Dense,
    Flatten,
    Layer,
    Nonlinearity,
    Normal,
    ReLU,
    Sigmoid,
    softmax_cross_entropy,
)
from bnrepro.measuring import Diagnostic
from bnrepro.network import Network, cnn, mlp, stack_runs
from bnrepro.optim import (
    SGD,
    Adagrad,
    Constant,
    ExponentialDecay,
    LearningRateSchedule,
    Momentum,
    Optimizer,
    Params,
    State,
    StepDecay,
    Weights,
)
from bnrepro.training import Diverged, Event, Finished, Measurement, Schedule, Specification, evaluate, train

ACTIVATIONS: dict[str, Callable[[], Layer]] = {"sigmoid": Sigmoid, "relu": ReLU}
NORMS: dict[str, Callable[[], Layer] | None] = {
    "no norm": None,
    "batch norm": BatchNorm,
    "population": functools.partial(BatchNorm, inference="population"),
}
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(weight_decay=0),
    "momentum": Momentum(momentum=0.9, weight_decay=0),
    "adagrad": Adagrad(eps=1e-8, weight_decay=0),
}

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
each_norm = pytest.mark.parametrize("norm", NORMS)
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

CONSTANT = Constant()
DEFAULT = {name: DIAGNOSTICS[name] for name in ("percentiles", "inactive", "gradients")}
SCHEDULE = Schedule(steps=25, batch_size=12, measurements=5, probe_examples=40, eval_examples=300)


def toy() -> Dataset:
    """Three classes of noisy images; the test set is not a multiple of what is evaluated at a time."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 256, (3, 1, 4, 4))

    def part(count: int) -> tuple[Array, Array]:
        labels = rng.integers(0, 3, count)
        images = prototypes[labels] + rng.integers(-140, 141, (count, 1, 4, 4))
        return images.clip(0, 255).astype(np.uint8), labels.astype(np.uint8)

    arrays = *part(100), *part(601)
    for a in arrays:
        a.flags.writeable = False  # like the memory map that workers share
    return Dataset(*arrays, classes=3, scale=1 / 255)


DATA = toy()


@dataclass
class Run:
    """What became of one run."""

    curve: dict[int, dict[str, Any]] = field(default_factory=dict)
    diverged: int | None = None
    accuracy: Any = None

    def bits(self) -> Any:
        return self.curve_bits(), self.diverged, self.accuracy

    def curve_bits(self) -> dict[int, dict[str, bytes]]:
        """All NaN are one: the sign of a NaN is no result."""
        return {
            step: {name: b"NaN" if np.isnan(value) else value.tobytes() for name, value in row.items()}
            for step, row in self.curve.items()
        }


def collect(runs: int, events: Iterable[Event]) -> list[Run]:
    """Sort the events by run."""
    result, last = [Run() for _ in range(runs)], 0
    for event in events:
        if isinstance(event, Finished):
            for r, accuracy in zip(event.runs, event.test_accuracy, strict=True):
                result[r].accuracy = accuracy
            continue
        assert event.step >= last
        last = event.step
        for i, r in enumerate(event.runs):
            assert result[r].diverged is None
            if isinstance(event, Diverged):
                result[r].diverged = event.step
            else:
                scalars = ("train_loss", "test_accuracy", "gradient_norm")
                row = {name: getattr(event, name)[i] for name in scalars}
                row |= {name: values[i] for name, values in event.curve.items()}
                row |= {f"unit {name}": values[i].sum() for name, values in event.units.items()}
                for number, layer in enumerate(event.layers, start=1):
                    row |= {f"{name} {number}": values[i] for name, values in layer.items()}
                result[r].curve[event.step] = row
    return result


@dataclass(frozen=True)
class Group:
    """Runs that differ in seed, learning rate and initial std."""

    seeds: Sequence[int]
    rates: Sequence[float]
    stds: Sequence[float]
    activation: str = "sigmoid"
    norm: str = "no norm"
    optimizer: str = "sgd"
    schedule: Schedule = SCHEDULE
    lr_schedule: LearningRateSchedule = CONSTANT
    diagnostics: Mapping[str, Diagnostic] = field(default_factory=lambda: DEFAULT)
    dtype: Any = np.float32
    data: Dataset = DATA

    def network(self, r: int) -> Network:
        return mlp([6, 5], 3, Normal(self.stds[r]), ACTIVATIONS[self.activation], NORMS[self.norm])

    def events(self, runs: Sequence[int]) -> list[Event]:
        """Train these runs in lock-step."""
        return list(train(self.specification(runs), self.data))

    def finished(self, data: Dataset) -> Finished:
        """Train all runs on these data, and return how they end."""
        *_, last = train(self.specification(range(len(self.seeds))), data)
        assert isinstance(last, Finished)
        return last

    def specification(self, runs: Sequence[int]) -> Specification:
        """What training needs to know of these runs."""
        return Specification(
            networks=[self.network(r) for r in runs],
            optimizer=OPTIMIZERS[self.optimizer],
            learning_rates=[self.rates[r] for r in runs],
            seeds=[self.seeds[r] for r in runs],
            schedule=self.schedule,
            lr_schedule=self.lr_schedule,
            diagnostics=self.diagnostics,
            engine="numpy",
            dtype=np.dtype(self.dtype),
        )

    def train(self, *chosen: int) -> list[Run]:
        """Train these runs, by default all of them, in lock-step."""
        runs = chosen or range(len(self.seeds))
        return collect(len(runs), self.events(runs))


@dataclass
class Twin:
    """One run, written out without groups and events; parameters and state are kept as they are before each update."""

    params: list[Params]
    state: list[Params]
    diverged: int | None


def slow_twin(group: Group, r: int) -> Twin:
    network, optimizer = group.network(r), OPTIMIZERS[group.optimizer]
    weight_seed, batch_seed = np.random.SeedSequence(group.seeds[r]).spawn(2)
    drawn = network.init(np.random.default_rng(weight_seed), (1, 4, 4))
    params, state = (stack_runs([tree], np.dtype(group.dtype)) for tree in drawn)
    memory, batches = optimizer.init(params), minibatches(100, group.schedule.batch_size, batch_seed)
    lr, targets = np.array([group.rates[r]], group.dtype), np.eye(3, dtype=group.dtype)
    twin = Twin([copy.deepcopy(params)], [state], None)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(group.schedule.steps):
            batch = next(batches)
            x = scaled(DATA.train_images[None, batch], group.dtype)
            logits, state, backward = network.forward(params, state, x, train=True)
            loss, dlogits = softmax_cross_entropy(logits, targets[DATA.train_labels[None, batch]])
            if not (np.isfinite(loss[0]) and loss[0] <= 1000):
                twin.diverged = step
                break
            optimizer.update(params, backward(dlogits), memory, lr * group.lr_schedule(step), network.weights)
            twin.params.append(copy.deepcopy(params))
            twin.state.append(state)
    return twin


def scaled(images: Array, dtype: Any) -> Array:
    floats: Array = images * np.dtype(dtype).type(DATA.scale)
    return floats


def slow_accuracy(group: Group, r: int, params: Params, state: Params, chosen: Iterable[int]) -> float:
    """Share of these test examples, one by one, whose largest logit is that of their label."""
    if group.norm == "population":
        state = slow_population(group, r, params, state)
    correct = []
    for n in chosen:
        x = scaled(DATA.test_images[None, [n]], group.dtype)
        logits, _, _ = group.network(r).forward(params, state, x, train=False)
        correct.append(bool(np.argmax(logits[0, 0]) == DATA.test_labels[n]))
    return sum(correct) / len(correct)


def slow_population(group: Group, r: int, params: Params, state: Params) -> Params:
    """Algorithm 2 by brute force, over the 8 mini-batches of 12 that 100 training examples make."""
    statistics: dict[str, list[tuple[Array, Array]]] = {}
    for batch in itertools.islice(minibatches(100, 12, 0), 8):
        x = scaled(DATA.train_images[None, batch], group.dtype)
        for name, layer in group.network(r).layers.items():
            if isinstance(layer, BatchNorm):
                both = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True, ddof=1)
                statistics.setdefault(name, []).append(both)
            x, _, _ = layer.forward(params[name], state[name], x, train=True)
    found = dict(state)
    for name, batches in statistics.items():
        means, variances = zip(*batches, strict=True)
        found[name] = {"mean": np.mean(means, axis=0), "var": np.mean(variances, axis=0)}
    return found


ALL_TEST_EXAMPLES = range(601)
RATES, STDS = [0.1, 0.5, 0.1, 1.0, 0.02], [0.1, 1.0, 0.1, 0.5, 1.0]


@each_activation
@each_norm
@each_optimizer
@pytest.mark.parametrize("seeds", [[0, 0, 1, 2, 1], [3, 3, 3, 3, 3]], ids=["mixed seeds", "one seed"])
def test_a_run_alone_gives_the_bits_of_the_run_in_a_group(
    activation: str, norm: str, optimizer: str, seeds: list[int]
) -> None:
    group = Group(seeds, RATES, STDS, activation, norm, optimizer)
    together = group.train()
    for r, run in enumerate(together):
        assert group.train(r)[0].bits() == run.bits()
        assert list(run.curve) == group.schedule.measured_steps
        assert run.diverged is None
    pair = group.train(3, 1)  # another group, in another order
    assert [run.bits() for run in pair] == [together[3].bits(), together[1].bits()]


PREPARED: dict[str, dict[str, Any]] = {
    "whitened": {"data": fitted(DATA, "whitened")},
    "augmented": {"data": replace(DATA, augmentation=("flip",))},
    "fixed": {"schedule": replace(SCHEDULE, order="fixed")},
    "with replacement": {"schedule": replace(SCHEDULE, order="replacement")},
}


@pytest.mark.parametrize("changes", PREPARED.values(), ids=PREPARED)
def test_images_that_are_prepared_alone_give_the_bits_of_those_in_a_group(changes: dict[str, Any]) -> None:
    group = Group([0, 0, 1, 2, 1], RATES, STDS, **changes)
    together = group.train()
    assert [group.train(r)[0].bits() for r in range(5)] == [run.bits() for run in together]
    assert together[0].bits() != Group([0], RATES, STDS).train()[0].bits()


@pytest.mark.parametrize("norm", ["no norm", "population"])
def test_the_accuracy_on_images_held_out_is_that_of_a_test_on_them(norm: str) -> None:
    group = Group([0, 1], RATES, STDS, norm=norm, data=divided(DATA, None, 30))
    held_out = group.data.validated()
    assert held_out is not None
    found, on_test = (group.finished(data) for data in (group.data, replace(group.data, validation=None)))
    swapped = replace(group.data, test_images=held_out.test_images, test_labels=held_out.test_labels)
    assert found.validation_accuracy is not None
    np.testing.assert_array_equal(found.validation_accuracy, group.finished(swapped).test_accuracy)
    np.testing.assert_array_equal(found.test_accuracy, on_test.test_accuracy)
    assert on_test.validation_accuracy is None


DIVERGING = Group(
    seeds=[0, 1, 0, 2, 1, 0],
    rates=[0.1, 1e6, 0.05, 16, 1e20, 4],
    stds=[0.5, 1.0, 0.1, 1.0, 0.5, 1.0],
)


@each_activation
@each_norm
@each_optimizer
def test_diverging_neighbours_change_no_bit_and_keep_their_own_curve(
    activation: str, norm: str, optimizer: str
) -> None:
    group = replace(DIVERGING, activation=activation, norm=norm, optimizer=optimizer)
    together = group.train()
    for r, run in enumerate(together):
        assert group.train(r)[0].bits() == run.bits()
        assert run.diverged == slow_twin(group, r).diverged
        until = group.schedule.steps if run.diverged is None else run.diverged
        assert list(run.curve) == [step for step in group.schedule.measured_steps if step <= until]
        assert (run.accuracy is None) == (run.diverged is not None)
    assert [together[r].diverged for r in (0, 1, 2, 4)] == [None, 1, None, 1]


@dataclass(frozen=True)
class Counting(Optimizer):
    """Momentum with a count of steps, and state that is nested in another way than parameters are."""

    inner: Momentum = OPTIMIZERS["momentum"]  # type: ignore[assignment]

    def init(self, params: Params) -> State:
        runs = len(next(p for arrays in params.values() for p in arrays.values()))
        return {"steps": 0, "total": np.zeros(()), "of": [{"runs": np.zeros(runs)}, (self.inner.init(params),)]}

    def update(
        self, params: Params, grads: Params, state: State, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        state["steps"] += 1
        state["total"] += 1
        state["of"][0]["runs"] += 1 / lr
        assert state["of"][0]["runs"].max() > 0  # which fails where no run is left
        assert state["steps"] == state["total"] < 100
        self.inner.update(params, grads, state["of"][1][0], lr, weights)


def test_an_optimiser_counts_steps_and_nests_its_state_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "counting", Counting())
    monkeypatch.setattr(Momentum, "linear", False)
    diagnostics = {"covariate_shift": DIAGNOSTICS["covariate_shift"]}
    group = replace(DIVERGING, optimizer="counting", diagnostics=diagnostics)
    expected = replace(group, optimizer="momentum").train()
    assert {1, None} <= {run.diverged for run in expected}
    assert [run.bits() for run in group.train()] == [run.bits() for run in expected]
    assert group.train(1)[0].bits() == expected[1].bits()


def test_the_default_diagnostics_measure_a_network_without_nonlinearities() -> None:
    linear = Network({"flatten": Flatten(), "logits": Dense(3, Normal(1.0))})
    spec = replace(DIVERGING.specification([0, 2]), networks=[linear] * 2)
    *_, measured, finished = train(spec, DATA)
    assert isinstance(measured, Measurement)
    assert isinstance(finished, Finished)
    assert measured.layers == []
    assert np.isnan(measured.curve["gradient_ratio"]).all()


class Cube(Nonlinearity):
    """An activation with nothing but what its base asks for."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        return x**3, state, lambda dy, *, need_dx=True: (3 * x**2 * dy, {})


def test_the_default_diagnostics_measure_an_activation_that_has_what_its_base_asks_for() -> None:
    dense = Dense(4, Normal(0.1))
    network = Network({"flatten": Flatten(), "dense": dense, "cube": Cube(), "logits": Dense(3, Normal(1.0))})
    *_, measured, _ = train(replace(DIVERGING.specification([0]), networks=[network]), DATA)
    assert isinstance(measured, Measurement)
    (row,) = measured.layers
    assert np.isnan(row["inactive"]).all()
    assert all(np.isfinite(row[name]).all() for name in ("p15", "p50", "p85", "gradient_norm"))


def test_runs_that_diverge_one_after_another_are_each_reported_at_their_step() -> None:
    group = Group([1] * 6, [0.1, 32, 64, 1e6, 64, 16], [1.0] * 6, "relu", "batch norm", "momentum")
    expected = [slow_twin(group, r).diverged for r in range(6)]
    assert {None, 1, 2, 3} <= set(expected)
    assert [run.diverged for run in group.train()] == expected
    reports = [(e.step, e.runs.tolist()) for e in group.events(range(6)) if isinstance(e, Diverged)]
    assert reports == [(step, np.flatnonzero(np.array(expected) == step).tolist()) for step, _ in reports]


@each_norm
def test_a_group_of_which_all_runs_diverge_ends_with_that(norm: str) -> None:
    events = Group([0, 1, 0], [1e6, 1e8, 1e6], [1.0] * 3, "relu", norm).events(range(3))
    *before, last = events
    assert isinstance(last, Diverged)
    assert (last.step, last.runs.tolist()) == (1, [0, 1, 2])
    assert [type(event) for event in before] == [Measurement] * 2  # at steps 0 and 1


@each_activation
@each_norm
def test_measurements_equal_a_slow_recomputation(activation: str, norm: str) -> None:
    group = Group([5], [0.5], [0.7], activation, norm, "momentum", dtype=np.float64)
    network, twin = group.network(0), slow_twin(group, 0)
    (run,) = group.train()
    probe = np.linspace(0, 99, 40).astype(int)
    evaluated = np.linspace(0, 600, 300).astype(int)
    x, labels = scaled(DATA.train_images[None, probe], np.float64), DATA.train_labels[probe]
    for step, row in run.curve.items():
        params, state = twin.params[step], twin.state[step]
        taps: list[Array] = []
        logits, _, backward = network.forward(params, state, x, train=True, taps=taps)
        losses = [math.log(sum(np.exp(logits[0, n]))) - logits[0, n, labels[n]] for n in range(40)]
        grads = backward(softmax_cross_entropy(logits, np.eye(3)[labels][None])[1])
        expected = {
            "train_loss": sum(losses) / 40,
            "test_accuracy": slow_accuracy(group, 0, params, state, evaluated),
            "gradient_norm": math.sqrt(sum((g**2).sum() for layer in grads.values() for g in layer.values())),
        }
        for i, (z, nonlinearity) in enumerate(zip(taps, network.nonlinearities.values(), strict=True), start=1):
            expected |= {f"p{q} {i}": np.percentile(z, q) for q in (15, 50, 85)}
            expected[f"inactive {i}"] = nonlinearity.inactive(z)[0]
            expected[f"gradient_norm {i}"] = math.sqrt((grads[f"dense{i}"]["W"] ** 2).sum())
        with np.errstate(invalid="ignore"):  # where all units are dead
            expected["gradient_ratio"] = np.divide(expected["gradient_norm 1"], expected["gradient_norm 2"])
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(row[name], value, rtol=1e-9, err_msg=f"{name} at step {step}")


@each_norm
def test_the_final_accuracy_is_that_of_the_whole_test_set(norm: str) -> None:
    group = Group([0, 1, 2], [0.5, 0.1, 1e-3], [1.0, 0.5, 1.0], norm=norm, optimizer="momentum")
    accuracies = []
    for r, run in enumerate(group.train()):
        twin = slow_twin(group, r)
        accuracies.append(slow_accuracy(group, r, twin.params[-1], twin.state[-1], ALL_TEST_EXAMPLES))
        assert run.accuracy == accuracies[-1]
    assert len(set(accuracies)) == 3


@pytest.mark.parametrize("examples", [None, 1, 2, 255, 256, 257, 601, 1000])
def test_accuracy_is_measured_on_evenly_spaced_examples_from_the_first_to_the_last(examples: int | None) -> None:
    group = Group([0], [0.5], [1.0], norm="batch norm")
    twin = slow_twin(group, 0)
    count = min(examples or 601, 601)
    chosen = [int(600 * i / (count - 1)) for i in range(count)] if count > 1 else [0]
    accuracy = evaluate(group.network(0), twin.params[-1], twin.state[-1], DATA, examples)
    assert accuracy.tolist() == [slow_accuracy(group, 0, twin.params[-1], twin.state[-1], chosen)]


@each_norm
def test_how_much_is_measured_does_not_change_the_training(norm: str) -> None:
    group = Group([0, 1], [0.5, 0.1], [1.0, 1.0], norm=norm)
    few, many = (replace(group, schedule=replace(SCHEDULE, measurements=n)).train() for n in (2, 20))
    for a, b in zip(few, many, strict=True):
        common = a.curve.keys() & b.curve.keys()
        assert {0, 25} < common < b.curve.keys()
        assert {s: a.curve_bits()[s] for s in common} == {s: b.curve_bits()[s] for s in common}
        assert a.accuracy == b.accuracy
    smaller = replace(SCHEDULE, probe_examples=2, eval_examples=1)
    assert [run.accuracy for run in replace(group, schedule=smaller).train()] == [run.accuracy for run in few]


@given(steps=st.integers(1, 100_000), measurements=st.integers(1, 2_000))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_measured_steps_grow_and_are_then_even(steps: int, measurements: int) -> None:
    measured = Schedule(steps, 1, measurements, 1, 1).measured_steps
    assert measured == sorted(set(measured))
    assert (measured[0], measured[-1]) == (0, steps)
    interval = max(1, steps // measurements)
    early, even = [n for n in measured if n < interval], [n for n in measured if n >= interval]
    assert all(b <= 1.5 * a + 1.5 for a, b in zip(early, [*early[1:], even[0]], strict=True))
    assert all(b - a == interval for a, b in itertools.pairwise(even[:-1]))
    assert min(steps, measurements) <= len(even) <= 2 * measurements
    assert len(early) <= 2 + math.log(interval, 1.5)


@pytest.mark.parametrize(
    ("steps", "measurements", "expected"),
    [
        (1, 1, [0, 1]),
        (3, 100, [0, 1, 2, 3]),
        (20, 2, [0, 1, 2, 3, 5, 7, 10, 20]),
        (10, 3, [0, 1, 2, 3, 6, 9, 10]),
    ],
)
def test_measured_steps_of_examples(steps: int, measurements: int, expected: list[int]) -> None:
    assert Schedule(steps, 1, measurements, 1, 1).measured_steps == expected


def test_early_measurements_can_be_left_out() -> None:
    assert Schedule(20, 1, 2, 1, 1, early_measurements=False).measured_steps == [0, 10, 20]


@given(
    steps=st.integers(1, 100_000),
    measurements=st.integers(1, 20),
    factor=st.floats(1.001, 4) | st.sampled_from([1.001, 1e300]),
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_early_measurements_grow_by_the_factor_that_is_given(steps: int, measurements: int, factor: float) -> None:
    even, measured = (
        Schedule(steps, 1, measurements, 1, 1, early_measurements=early).measured_steps for early in (False, factor)
    )
    interval = even[1]
    early = [n for n in measured if n < interval]
    assert [n for n in measured if n >= interval] == even[1:]  # which goes on as it was
    assert all(b <= factor * a + factor for a, b in itertools.pairwise([*early[1:], interval]))
    assert early[1:2] == [1][: interval - 1]
    assert len(early) <= 2 + math.log(interval, factor)


def test_a_factor_is_the_spacing_of_a_geometric_grid() -> None:
    grid = Schedule(30_000, 1, 1, 1, 1, early_measurements=1.05).measured_steps
    assert grid[:26] == [*range(24), 25, 26]
    assert all(b - a <= max(1, 0.05 * a + 1) for a, b in itertools.pairwise(grid))
    assert len(grid) < 180
    assert Schedule(99, 1, 1, 1, 1, early_measurements=1.5).measured_steps == Schedule(99, 1, 1, 1, 1).measured_steps


@pytest.mark.parametrize("norm", NORMS)
def test_predictions_are_the_softmax_of_all_test_examples_if_they_are_asked_for(norm: str) -> None:
    group = replace(DIVERGING, norm=norm, schedule=replace(SCHEDULE, predictions=True))
    *_, last = group.events(range(6))
    assert isinstance(last, Finished)
    assert last.predictions is not None
    assert (last.predictions.shape, last.predictions.dtype.name) == ((len(last.runs), 601, 3), "float16")
    for i, r in enumerate(last.runs):
        twin = slow_twin(group, r)
        params, state = twin.params[-1], twin.state[-1]
        state = slow_population(group, r, params, state) if norm == "population" else state
        logits, _, _ = group.network(r).forward(params, state, scaled(DATA.test_images[None], np.float32), train=False)
        expected = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(last.predictions[i], expected, rtol=1e-3, atol=1e-4)
        *_, alone = group.events([r])
        assert isinstance(alone, Finished)
        assert alone.predictions is not None
        assert alone.predictions[0].tobytes() == last.predictions[i].tobytes()
    *_, usual = DIVERGING.events([0])
    assert isinstance(usual, Finished)
    assert usual.predictions is None


@dataclass(frozen=True)
class SpyFlatten(Flatten):
    """Keeps every training mini-batch; the probe has another size."""

    batches: list[Array]

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        if train and x.shape[1] == SCHEDULE.batch_size:
            self.batches.append(x)
        return super().forward(params, state, x, train=train)


@dataclass(frozen=True, kw_only=True)
class SpySGD(SGD):
    """Keeps the initial parameters."""

    initial: list[Params]

    def init(self, params: Params) -> Params:
        self.initial.append(copy.deepcopy(params))
        return super().init(params)


def initial_weights_and_batches(
    seed: int, rate: float = 0.1, activation: str = "sigmoid", norm: str = "no norm"
) -> tuple[list[Array], list[Array]]:
    spy, optimizer = SpyFlatten([]), SpySGD(initial=[], weight_decay=0)
    group = Group([seed], [rate], [1.0], activation, norm)
    network = Network({**group.network(0).layers, "flatten": spy})
    list(train(replace(group.specification([0]), networks=[network], optimizer=optimizer), DATA))
    (params,) = optimizer.initial
    return [layer["W"] for layer in params.values() if "W" in layer], spy.batches


def test_equal_seeds_draw_equal_weights_and_mini_batches_whatever_the_method() -> None:
    weights, batches = initial_weights_and_batches(seed=0)
    assert (len(weights), len(batches)) == (3, SCHEDULE.steps)
    for options in ({"activation": "relu"}, {"norm": "batch norm"}, {"rate": 0.01}):
        same = initial_weights_and_batches(seed=0, **options)
        for a, b in zip([*weights, *batches], [*same[0], *same[1]], strict=True):
            np.testing.assert_array_equal(a, b)
    other = initial_weights_and_batches(seed=1)
    for a, b in zip([*weights, *batches], [*other[0], *other[1]], strict=True):
        assert not np.array_equal(a, b)


def test_each_run_of_a_group_sees_the_mini_batches_of_its_own_seed() -> None:
    spy = SpyFlatten([])
    group = Group([4, 9, 4], [0.1, 1e6, 0.1], [1.0] * 3, "relu")
    networks = [Network({**group.network(r).layers, "flatten": spy}) for r in range(3)]
    list(train(replace(group.specification(range(3)), networks=networks), DATA))
    alone = {seed: initial_weights_and_batches(seed)[1] for seed in (4, 9)}
    for step, x in enumerate(spy.batches):
        seeds = [4, 9, 4] if step < 2 else [4, 4]  # the middle run diverges at step 1
        expected = np.concatenate([alone[seed][step] for seed in seeds])
        np.testing.assert_array_equal(np.broadcast_to(x, expected.shape), expected)


@each_norm
def test_float64_is_an_option(norm: str) -> None:
    single = Group([0, 1], [0.1, 0.5], [1.0, 1.0], norm=norm)
    double = replace(single, dtype=np.float64)
    names = ["train_loss", "gradient_norm", "p15 1", "p50 2", "p85 2", "gradient_norm 1"]
    for a, b, alone in zip(single.train(), double.train(), (double.train(r)[0] for r in (0, 1)), strict=True):
        assert b.bits() == alone.bits()
        for name in names:
            assert {row[name].dtype for row in a.curve.values()} == {np.dtype(np.float32)}
            assert {row[name].dtype for row in b.curve.values()} == {np.dtype(np.float64)}
            np.testing.assert_allclose(a.curve[25][name], b.curve[25][name], rtol=1e-3, atol=1e-4)


@each_activation
@each_norm
def test_training_learns(activation: str, norm: str) -> None:
    schedule = replace(SCHEDULE, steps=300)
    (run,) = Group([0], [0.1], [0.7], activation, norm, "momentum", schedule).train()
    assert run.curve[300]["train_loss"] < 0.1 * run.curve[0]["train_loss"]
    assert run.accuracy > 0.95


def test_a_divergence_by_the_last_update_is_seen_though_no_mini_batch_follows() -> None:
    schedule = replace(SCHEDULE, steps=1)
    blown, fine = Group([3, 3], [1e6, 0.1], [0.5, 0.5], "relu", schedule=schedule).train()
    assert (blown.diverged, blown.accuracy, list(blown.curve)) == (1, None, [0, 1])
    assert (fine.diverged, list(fine.curve)) == (None, [0, 1])
    assert fine.accuracy is not None
    *_, last = Group([3], [1e6], [0.5], "relu", "population", schedule=schedule).events([0])
    assert isinstance(last, Diverged)


@pytest.mark.parametrize("lr_schedule", [StepDecay(every=10, factor=0.1), ExponentialDecay(every=5, factor=0.5)])
@each_optimizer
def test_the_learning_rate_follows_its_schedule(optimizer: str, lr_schedule: LearningRateSchedule) -> None:
    group = Group([0, 1], [0.5, 0.1], [1.0, 1.0], optimizer=optimizer, lr_schedule=lr_schedule)
    for r, run in enumerate(group.train()):
        twin = slow_twin(group, r)
        assert run.accuracy == slow_accuracy(group, r, twin.params[-1], twin.state[-1], ALL_TEST_EXAMPLES)
        assert run.bits() != replace(group, lr_schedule=CONSTANT).train(r)[0].bits()
        assert group.train(r)[0].bits() == run.bits()


@pytest.mark.parametrize("lr_schedule", [StepDecay(every=5, factor=0.1), ExponentialDecay(every=5, factor=0.5)])
def test_the_covariate_shift_is_that_of_an_update_at_the_rate_in_force(lr_schedule: LearningRateSchedule) -> None:
    shift = {"covariate_shift": DIAGNOSTICS["covariate_shift"]}
    group = Group([5], [0.5], [0.7], lr_schedule=lr_schedule, diagnostics=shift, dtype=np.float64)
    network, twin = group.network(0), slow_twin(group, 0)
    probe = np.linspace(0, 99, 40).astype(int)
    x, targets = scaled(DATA.train_images[None, probe], np.float64), np.eye(3)[DATA.train_labels[None, probe]]

    def gradient(params: Params) -> Params:
        logits, _, backward = network.forward(params, {name: {} for name in params}, x, train=True)
        return backward(softmax_cross_entropy(logits, targets)[1])

    (run,) = group.train()
    for step, row in run.curve.items():
        params, rate = twin.params[step], 0.5 * lr_schedule(step)
        before = gradient(params)
        moved = {name: p - rate * before["dense1"][name] for name, p in params["dense1"].items()}
        after = gradient(params | {"dense1": moved})
        expected = math.sqrt(((before["dense2"]["W"] - after["dense2"]["W"]) ** 2).sum())
        assert row["shift_norm 2"] == pytest.approx(expected, rel=1e-9)


def conv_group(**options: Any) -> Group:
    return ConvGroup([0, 1, 0], [0.1, 0.5, 1e9], [0.5, 1.0, 0.5], "relu", "batch norm", **options)


class ConvGroup(Group):
    """A small convolutional network with dropout."""

    def network(self, r: int) -> Network:
        return cnn([2, 3], 3, 3, Normal(self.stds[r]), ReLU, NORMS[self.norm], dropout=0.3)


def test_convolutional_runs_with_dropout_alone_give_the_bits_of_the_runs_in_a_group() -> None:
    group = conv_group()
    together = group.train()
    for r, run in enumerate(together):
        assert group.train(r)[0].bits() == run.bits()
        assert run.diverged == slow_twin(group, r).diverged
    assert [run.diverged is None for run in together] == [True, True, False]


def test_a_rate_too_large_for_float32_diverges_without_a_warning() -> None:
    huge, fine = Group([0, 0], [1e39, 0.1], [0.5, 0.5]).train()
    assert (huge.diverged, fine.diverged) == (1, None)  # where its loss is NaN


@each_activation
@each_norm
def test_curves_are_the_same_to_the_bit_with_all_diagnostics_on_and_all_off(activation: str, norm: str) -> None:
    off = Group(DIVERGING.seeds, DIVERGING.rates, DIVERGING.stds, activation, norm, "momentum", diagnostics={})
    on = replace(off, diagnostics=DIAGNOSTICS)
    for a, b in zip(off.train(), on.train(), strict=True):
        assert (a.diverged, a.accuracy, list(a.curve)) == (b.diverged, b.accuracy, list(b.curve))
        for step, row in a.curve.items():
            assert set(row) == {"train_loss", "test_accuracy", "gradient_norm"}
            for name, value in row.items():
                assert np.isnan(value) if np.isnan(b.curve[step][name]) else value == b.curve[step][name]


@each_norm
def test_all_diagnostics_of_a_run_alone_give_the_bits_of_the_run_in_a_group(norm: str) -> None:
    group = replace(DIVERGING, norm=norm, diagnostics=DIAGNOSTICS)
    together = group.train()
    for r, run in enumerate(together):
        assert group.train(r)[0].bits() == run.bits()
    names = {"drift_mean 2", "shift_cosine 3", "jacobian_max 1", "landscape_smoothness", "gradient_ratio", "unit p50"}
    assert names <= set(together[0].curve[25])
