"""The compiled engine against NumPy's, and its bits against the same run computed otherwise."""

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from golden import Run as GoldenRun
from runs import a_run
from test_golden import FEW, ROWS, assert_numbers, stored, words_of

from bnrepro import compiled, kernels, training
from bnrepro.batchnorm import BatchNorm
from bnrepro.data import Augmentation, Dataset, Inputs, divided, fitted
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.errors import InputError
from bnrepro.layers import (
    Array,
    AvgPool2D,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Layer,
    MaxPool2D,
    Normal,
    ReLU,
    Sigmoid,
    Tanh,
    he,
    softmax_cross_entropy,
)
from bnrepro.network import IMAGES, Network, Placement, inception, mlp, stack_runs
from bnrepro.optim import SGD, Adagrad, Constant, ExponentialDecay, Momentum, Optimizer, StepDecay
from bnrepro.sweeping import train_group
from bnrepro.training import Diverged, Event, Finished, Measurement, Schedule, Specification, train

__all__ = ["stored"]  # a fixture

F = np.float32
PROGRAMS = Path(__file__).parent
PLAIN, CONSTANT = SGD(weight_decay=0), Constant()


@pytest.mark.parametrize(
    ("function", "of_numpy", "values", "units_in_the_last_place"),
    [
        (kernels._exp, np.exp, np.linspace(-87, 88.7, 100_001), 1.1),
        (kernels._exp, np.exp, np.array([-np.inf, -120, -104, 0, 89, np.inf, np.nan]), 0),
        (kernels._tanh, np.tanh, np.linspace(-20, 20, 100_001), 2.5),
        (kernels._tanh, np.tanh, np.geomspace(1e-30, 1, 10_001), 2.5),
        (kernels._tanh, np.tanh, np.array([-np.inf, 0, np.inf, np.nan]), 0),
        (kernels._log, np.log, np.geomspace(1, 1e6, 100_001), 2.5),
        (kernels._log, np.log, np.array([1, np.nan]), 0),
    ],
)
@np.errstate(over="ignore", under="ignore")
def test_elementary_functions(
    function: Any, of_numpy: Callable[[Array], Array], values: Array, units_in_the_last_place: float
) -> None:
    x = values.astype(F)
    found, exact = np.array([function(each) for each in x]), of_numpy(x.astype(float)).astype(F)
    np.testing.assert_equal(np.isfinite(found), np.isfinite(exact))
    finite = np.isfinite(exact)
    unit = np.spacing(np.abs(exact[finite]))
    assert (np.abs(found[finite] - exact[finite]) <= units_in_the_last_place * unit).all()
    np.testing.assert_array_equal(found[~finite], exact[~finite])


# Against NumPy


def of_images(**given: Any) -> Layer:
    return Conv2D(initializer=Normal(0.3), **given)


@dataclasses.dataclass(frozen=True)
class Case:
    """A group of runs on random images, small enough to be trained in no time."""

    activation: Any = Sigmoid
    norm: Any = None
    optimizer: Optimizer = PLAIN
    dropout: float = 0
    placement: Placement = "before"
    bias: bool | None = None
    hidden: tuple[int, ...] = (20, 17)
    batch: int = 12
    density: float = 0.2
    grey: bool = False
    side: int = 6
    steps: int = 1
    rates: tuple[float, ...] = (0.05, 0.2)
    seeds: tuple[int, ...] = (0, 1)
    lr_schedule: Any = CONSTANT
    diagnostics: tuple[str, ...] = ("percentiles", "gradients", "landscape", "covariate_shift")
    measurements: int = 3
    channels: int = 1
    predictions: bool = False
    inputs: Inputs = "raw"
    augmentation: tuple[Augmentation, ...] = ()
    layers: tuple[Layer, ...] = ()
    """The layers of a network of images; empty for fully connected ones."""
    branched: Network | None = None
    """A network with branches, in place of these."""

    def network(self) -> Network:
        """What is trained."""
        if self.branched:
            return self.branched
        if not self.layers:
            parts = self.activation, self.norm, self.dropout, self.placement, self.bias
            return mlp(self.hidden, 10, Normal(0.3), *parts)
        return Network({str(i): layer for i, layer in enumerate([*self.layers, Flatten(), Dense(10, Normal(0.3))])})

    def data(self) -> Dataset:
        """Images whose pixels are 0 but for a share, and whose labels can be learnt."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 10, 150).astype(np.uint8)
        images = rng.integers(1, 256 if self.grey else 2, (150, self.channels, self.side, self.side + 1))
        images[rng.random(images.shape) > self.density] = 0
        images[np.arange(150), 0, labels % self.side, labels // self.side] = 1
        arrays = images.astype(np.uint8), labels, images[:70].astype(np.uint8), labels[:70]
        for array in arrays:
            array.flags.writeable = False  # like the memory maps that workers share
        data = Dataset(*arrays, classes=10, scale=1 / 255 if self.grey else 1, augmentation=self.augmentation)
        return fitted(data, self.inputs)

    def specification(self, engine: Any, dtype: str = "float32", runs: slice = slice(None)) -> Specification:
        """What is trained."""
        rates, seeds = self.rates[runs], self.seeds[runs]
        return Specification(
            networks=[self.network()] * len(rates),
            optimizer=self.optimizer,
            learning_rates=rates,
            seeds=seeds,
            schedule=Schedule(self.steps, self.batch, self.measurements, 30, 60, predictions=self.predictions),
            lr_schedule=self.lr_schedule,
            diagnostics={name: DIAGNOSTICS[name] for name in self.diagnostics},
            dtype=np.dtype(dtype),
            engine=engine,
        )

    def events(self, engine: Any = "compiled", dtype: str = "float32", runs: slice = slice(None)) -> list[Event]:
        """Train, and return what happened."""
        return list(train(self.specification(engine, dtype, runs), self.data()))


def numbers(events: list[Event]) -> Iterator[tuple[str, Array]]:
    """Every number of some events, with its name."""
    for event in events:
        if isinstance(event, Measurement):
            yield f"loss at {event.step}", event.train_loss
            yield "norm of the gradient", event.gradient_norm
            yield from (*event.curve.items(), *(item for layer in event.layers for item in layer.items()))
        elif isinstance(event, Diverged):
            yield "diverged", np.array([event.step, *event.runs])


def digest(events: list[Event]) -> str:
    """The digest of every bit of some events; all NaN are one."""
    found = hashlib.sha256()
    for event in events:
        accuracy = event.test_accuracy if isinstance(event, Measurement | Finished) else np.zeros(0)
        for name, values in (*numbers([event]), ("accuracy", accuracy)):
            found.update(name.encode() + np.where(np.isnan(values), np.nan, values).tobytes())
    return found.hexdigest()[:16]


rate = st.floats(0.001, 0.2)
decay = st.sampled_from([0.0, 0.05])
optimizers = st.one_of(
    st.builds(SGD, weight_decay=decay),
    st.builds(Momentum, weight_decay=decay, momentum=st.floats(0, 0.95)),
    st.builds(Adagrad, weight_decay=decay, eps=st.just(0.1)),
)
norms = st.builds(
    BatchNorm,
    eps=st.sampled_from([1e-5, 1e-3]),
    momentum=st.floats(0, 1),
    inference=st.sampled_from(["ema", "population", "batch"]),
)


ILL_CONDITIONED = {"gradient_ratio", "shift_cosine", "landscape_smoothness"}
"""Differences of nearly equal numbers, over what may be next to nothing."""


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    activation=st.sampled_from([Sigmoid, Tanh, ReLU]),
    norm=st.none() | norms.map(lambda norm: lambda: norm),
    optimizer=optimizers,
    dropout=st.sampled_from([0, 0.3]),
    placement=st.sampled_from(["before", "after"]),
    bias=st.none() | st.booleans(),
    hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    batch=st.integers(2, 33),
    density=st.sampled_from([0, 0.1, 0.9]),
    grey=st.booleans(),
    side=st.integers(5, 9),
    rates=st.tuples(rate, rate),
)
def test_one_step_is_that_of_numpy_to_rounding(**given: Any) -> None:
    assert_equal_to_rounding(Case(**given))


def assert_equal_to_rounding(case: Case) -> None:
    """To that of float32; where NumPy is further from float64 itself, since a variance is next to nothing, to that."""
    runs = [numbers(case.events(*how)) for how in (("compiled",), ("numpy",), ("numpy", "float64"))]
    for (name, found), (_, rounded), (_, exact) in zip(*runs, strict=True):
        scale = np.abs(exact[np.isfinite(exact)]).max(initial=1)
        tolerance = 2e-6 * scale + 20 * np.nan_to_num(np.abs(rounded - exact)).max(initial=0)
        if name not in ILL_CONDITIONED:
            np.testing.assert_allclose(found, exact, rtol=1e-5, atol=tolerance, err_msg=name)


convolutions = st.builds(
    of_images,
    channels=st.sampled_from([1, 3, 16, 17, 32]),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    bias=st.booleans(),
)
pools = st.tuples(st.integers(1, 3), st.none() | st.integers(1, 3), st.integers(0, 2)).flatmap(
    lambda given: st.sampled_from([pool(*given[:2], min(given[2], given[0] - 1)) for pool in (MaxPool2D, AvgPool2D)])
)
others = st.sampled_from([BatchNorm(), Sigmoid(), Tanh(), ReLU(), Dropout(0.3)])


@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    first=convolutions,
    layers=st.lists(convolutions | pools | others, max_size=5),
    optimizer=optimizers,
    channels=st.sampled_from([1, 3, 16]),
    side=st.integers(6, 9),
    grey=st.booleans(),
)
def test_one_step_of_a_network_of_images_is_that_of_numpy_to_rounding(
    first: Layer, layers: list[Layer], **given: Any
) -> None:
    case = Case(layers=(first, *layers), **given, batch=9, diagnostics=("percentiles",))
    try:
        case.network().init(np.random.default_rng(0), case.data().image_shape)
    except ValueError:  # no pixel is left
        assume(False)
    assert_equal_to_rounding(case)


@pytest.mark.parametrize("inputs", ["centred", "standardised"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("layers", [(), (of_images(channels=5, kernel=3, padding=1), ReLU(), MaxPool2D(2))])
def test_prepared_images_are_those_of_numpy_to_rounding(
    inputs: Inputs, channels: int, layers: tuple[Layer, ...]
) -> None:
    assert_equal_to_rounding(Case(layers=layers, inputs=inputs, channels=channels, grey=True, diagnostics=()))


@pytest.mark.parametrize("layers", [(), (of_images(channels=5, kernel=3, padding=1), ReLU(), MaxPool2D(2))])
def test_augmented_images_are_those_of_numpy_to_rounding(layers: tuple[Layer, ...]) -> None:
    """After several steps, so that each must have its own images and labels."""
    case = Case(layers=layers, augmentation=("crop", "flip"), side=8, steps=5, diagnostics=())
    assert_equal_to_rounding(case)
    assert digest(case.events()) != digest(dataclasses.replace(case, augmentation=()).events())


def an_inception(activation: Any, norm: Any, modules: Any = ((4, 3, 5, 2, 4, 3), (0, 4, 17, 3, 4, 0))) -> Network:
    return inception(5, modules, 10, Normal(0.3), activation, norm, dropout=0.2)


DENSE = {name: Dense(4 + i, Normal(0.3)) for i, name in enumerate("abcd")} | {"logits": Dense(10, Normal(0.3))}
BRANCHED = {
    "inception": an_inception(ReLU, BatchNorm),
    "modules alone that halve": an_inception(Sigmoid, BatchNorm, ((0, 1, 2, 3, 4, 0), (0, 16, 17, 1, 1, 0))),
    "without norm": an_inception(Tanh, None),
    "one output taken by all": Network(
        {"flatten": Flatten(), **DENSE, "joined": Concatenate(), "end": Dense(10, Normal(0.3))},
        dict.fromkeys("bcd", ("a",)) | {"logits": ("d",), "joined": ("a", "logits", "c", "b", "a")},
    ),
    "images taken by two": Network(
        {
            "one": of_images(channels=3, kernel=3, padding=1), "pool": MaxPool2D(3, 1, padding=1),
            "two": of_images(channels=5, kernel=3, padding=1), "joined": Concatenate(), "average": GlobalAvgPool2D(),
            "end": Dense(10, Normal(0.3)),
        },
        {"pool": (IMAGES,), "two": (IMAGES,), "joined": ("one", "pool", "two")},
    ),
    "one nonlinearity behind another": Network({
        "conv": of_images(channels=3, kernel=3), "one": Sigmoid(), "two": Tanh(), "average": GlobalAvgPool2D(),
        "end": Dense(10, Normal(0.3)),
    }),
    "a mean of images": Network(
        {"average": GlobalAvgPool2D(), "dropout": Dropout(0.3), "end": Dense(10, Normal(0.3))}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BRANCHED)
@pytest.mark.parametrize("optimizer", [PLAIN, Momentum(weight_decay=0.05, momentum=0.9)])
def test_one_step_of_a_network_with_branches_is_that_of_numpy_to_rounding(name: str, optimizer: Optimizer) -> None:
    case = Case(branched=BRANCHED[name], channels=3, grey=True, optimizer=optimizer, side=8)
    assert_equal_to_rounding(dataclasses.replace(case, diagnostics=("percentiles", "gradients")))


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_a_command_line_leads_to_the_numbers(stored: Callable[[str], Any], row: tuple[str, ...]) -> None:
    results, expected = stored(f"{words_of(row)} train.engine=compiled"), GoldenRun(words_of(row)).train()
    assert_numbers(results, expected, rtol=1e-5, atol=1e-5, misjudged=1)


def test_a_sweep_may_compare_the_engines(stored: Callable[[str], Any]) -> None:
    results = stored(f"+sweep {FEW} ++sweep.grid.train.engine=[numpy,compiled] compute=inline".replace(" seed=3", ""))
    assert {*results.runs["train.engine"]} == {"numpy", "compiled"}
    assert "train.engine" in results.varying


@pytest.mark.slow  # the main job, twice
def test_the_engines_differ_in_the_end_no_more_than_seeds_do(stored: Callable[[str], Any]) -> None:
    runs = stored("+sweep ++sweep.grid.train.engine=[numpy,compiled]").runs
    cells = runs.fillna({"test_accuracy": 0}).pivot_table(  # diverged
        "test_accuracy", ["activation", "norm", "lr", "seed"], "train.engine"
    )
    assert len(cells) == len(runs) / 2
    of_seeds = cells["numpy"].unstack("seed")
    between_seeds = np.mean([(of_seeds[a] - of_seeds[b]).abs().mean() for a, b in itertools.combinations(of_seeds, 2)])
    assert (cells["numpy"] - cells["compiled"]).abs().mean() <= between_seeds
    assert abs((cells["numpy"] - cells["compiled"]).mean()) <= between_seeds / 3


# Bits

CASES = {
    "sparse": Case(steps=40, rates=(0.1,) * 8, seeds=(0, 0, 1, 1, 1, 2, 2, 0)),
    "grey": Case(activation=ReLU, norm=BatchNorm, grey=True, steps=40, lr_schedule=StepDecay(every=10, factor=0.5)),
    "dense": Case(activation=Tanh, density=0.9, optimizer=Momentum(weight_decay=0.01, momentum=0.9), steps=40),
    "population": Case(
        norm=lambda: BatchNorm(inference="population"), optimizer=Adagrad(weight_decay=0, eps=1e-3), steps=40
    ),
    "dropout": Case(dropout=0.4, steps=40, lr_schedule=ExponentialDecay(every=7, factor=0.9)),
    "diverging": Case(
        activation=ReLU, optimizer=Momentum(weight_decay=0, momentum=0.9), steps=40, rates=(0.1, 1e4, 1e30, 3.0),
        seeds=(0, 0, 1, 1),
    ),
    "wide": Case(norm=BatchNorm, hidden=(130, 300), batch=60, side=28, density=0.13, steps=3),
    "standardised": Case(grey=True, steps=20, inputs="standardised"),
    "augmented": Case(steps=20, augmentation=("crop", "flip"), side=8, seeds=(0, 0)),
    "images": Case(
        layers=(
            of_images(channels=16, kernel=3, padding=1, bias=False), BatchNorm(), ReLU(), MaxPool2D(2),
            of_images(channels=20, kernel=3, stride=2, padding=1), Tanh(),
        ),
        grey=True, channels=3, side=9, steps=5, diagnostics=("percentiles", "gradients"),
    ),
    "larger kernels": Case(
        layers=(
            of_images(channels=5, kernel=5, padding=2), Sigmoid(), AvgPool2D(3, 1),
            of_images(channels=33, kernel=1), Dropout(0.2), ReLU(),
        ),
        grey=True, side=9, steps=5, diagnostics=("percentiles", "gradients"),
        optimizer=Momentum(weight_decay=0.01, momentum=0.9),
    ),
    "inception": Case(
        branched=BRANCHED["inception"], grey=True, channels=3, side=9, steps=5,
        optimizer=Momentum(weight_decay=0.01, momentum=0.9), diagnostics=("percentiles", "gradients"),
    ),
    "inception without norm": Case(
        branched=BRANCHED["without norm"], side=9, steps=5, diagnostics=("percentiles", "gradients"),
    ),
}  # fmt: skip
GOLDEN = json.loads((PROGRAMS / "compiled_digests.json").read_text("utf-8"))
"""What every machine with fused multiply-adds computes."""


@pytest.mark.parametrize("name", CASES)
def test_bits_are_golden(name: str) -> None:
    assert digest(CASES[name].events()) == GOLDEN[name]


@pytest.mark.parametrize("name", CASES)
def test_bits_depend_on_no_neighbour(name: str) -> None:
    case = CASES[name]
    together = case.events()
    for run in range(len(case.rates)):
        alone = case.events(runs=slice(run, run + 1))
        own = [picked for event in together if (picked := pick(event, run))]
        assert digest(own) == digest(alone)


def pick(event: Event, run: int) -> Event | None:
    """What an event says of one run."""
    mask = event.runs == run
    if not mask.any():
        return None
    fields = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    picked = {name: picked_of(value, mask) for name, value in fields.items()}
    return type(event)(**(picked | {"runs": np.array([0])}))


def picked_of(value: Any, mask: Array) -> Any:
    if isinstance(value, dict):
        return {name: inner[mask] for name, inner in value.items()}
    if isinstance(value, list):
        return [picked_of(inner, mask) for inner in value]
    return value[mask] if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("constant", "value"), [("CHUNK", 7), ("DENSITY", 0.0), ("DENSITY", 1.0)])
def test_bits_depend_on_no_chunk_and_no_skipped_zero(
    name: str, constant: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, constant, value)
    assert digest(CASES[name].events()) == GOLDEN[name]


@pytest.mark.parametrize(
    "case",
    [
        Case(activation=ReLU, norm=BatchNorm, dropout=0.3),
        Case(
            layers=(
                *(Conv2D(3, 3, Normal(0.3), padding=1), BatchNorm(), ReLU(), MaxPool2D(2)),
                *(Conv2D(4, 3, Normal(0.3)), BatchNorm(), Sigmoid()),
            ),
            side=8,
        ),
    ],
    ids=["dense", "convolutions"],
)
def test_what_normalises_anew_and_predicts_goes_through_it_too(case: Case) -> None:
    others = ("weights", "moments", "amplification", "gradient_estimate", "companions", "inference", "corruptions")
    case = dataclasses.replace(case, diagnostics=others, predictions=True)
    events, rounded = (case.events(engine) for engine in ("compiled", "numpy"))
    for (name, found), (_, expected) in zip(numbers(events), numbers(rounded), strict=True):
        tolerance = 2 / 60 if name.startswith("accuracy") else 1e-5  # of 60 images, two may be near a boundary
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=tolerance, err_msg=name)
    one, other = (event.predictions for event in (events[-1], rounded[-1]) if isinstance(event, Finished))
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_the_accuracy_on_images_held_out_is_that_of_numpy(density: float) -> None:
    case = Case(density=density, steps=5)
    data = divided(case.data(), None, 40)
    compiled_, rounded = ([*train(case.specification(engine), data)][-1] for engine in ("compiled", "numpy"))
    assert isinstance(compiled_, Finished)
    assert isinstance(rounded, Finished)
    assert compiled_.validation_accuracy is not None
    assert rounded.validation_accuracy is not None
    np.testing.assert_allclose(compiled_.validation_accuracy, rounded.validation_accuracy, atol=1 / 40)


def test_what_is_measured_changes_no_bit() -> None:
    case = CASES["grey"]
    few, many = dict(numbers(dataclasses.replace(case, measurements=1).events())), dict(numbers(case.events()))
    np.testing.assert_array_equal(few["loss at 40"], many["loss at 40"])


def elsewhere(**environment: str) -> dict[str, str]:
    """The digests that another process finds."""
    program = (
        "import json, test_compiled as t; print(json.dumps({k: t.digest(v.events()) for k, v in t.CASES.items()}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, cwd=PROGRAMS, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, str] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kernel", ["Haswell", "SkylakeX", "Nehalem"])
def test_bits_depend_on_no_kernel_of_blas(kernel: str) -> None:
    assert elsewhere(OPENBLAS_CORETYPE=kernel) == GOLDEN


@pytest.mark.slow  # compiles anew
def test_bits_depend_on_no_width_of_vectors(tmp_path: Path) -> None:
    without = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    features = {"NPY_DISABLE_CPU_FEATURES": without} if "AVX512" in str(np.show_config(mode="dicts")) else {}
    assert elsewhere(NUMBA_CPU_NAME="haswell", NUMBA_CACHE_DIR=str(tmp_path), **features) == GOLDEN


# Out of range


def test_a_skipped_zero_hides_no_infinite_weight() -> None:
    case = Case(density=0.1)
    data = case.data()
    blank = np.flatnonzero(~data.train_images.any(axis=0).reshape(-1))
    assert len(blank) == 0  # every pixel is 1 in some image, but in no mini-batch are all
    for engine in "numpy", "compiled":
        spec = case.specification(engine)
        started = training.engine_of(spec)(spec, data)
        params, state = spec.networks[0].init(np.random.default_rng(0), data.image_shape)
        params["dense1"]["W"][0, 0] = np.inf
        group = training.Group(
            network=started.network,
            optimizer=spec.optimizer,
            lr=np.array([0.1], F),
            seeds=[0],
            params=stack_runs([params], spec.dtype),
            state=stack_runs([state], spec.dtype),
            optimizer_state={},
        )
        assert [event.step for event in started.advance(group, 0, 1)] == [0], engine


def test_diverging_runs_end_where_numpy_ends_them() -> None:
    case = CASES["diverging"]
    ends = [
        [(e.step, [*e.runs]) for e in case.events(engine) if isinstance(e, Diverged)]
        for engine in ("numpy", "compiled")
    ]
    assert ends[0] == ends[1] != []


# What can't be compiled


class MyDense(Dense):
    """A layer of a user's own."""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": np.dtype("float64")}, "train.dtype=float64: must be float32 with train.engine=compiled"),
        ({"optimizer": object()}, "train.engine=compiled: takes the optimizers SGD, Momentum, Adagrad, not object"),
        (
            {"networks": [mlp([3], 10, Normal(1), ReLU, lambda: MyDense(3, Normal(1)))]},
            "takes the layers Flatten, Dense, .*, not MyDense",
        ),
        (
            {"networks": [Network({"conv": Conv2D(3, 3, he), "flatten": Flatten(), "norm": BatchNorm()})]},
            "takes no BatchNorm of images that are flattened",
        ),
        ({}, "dataset.inputs=whitened: must be raw, centred or standardised with train.engine=compiled"),
        (
            {
                "networks": [
                    Network({"a": Flatten(), "b": Dense(3, he), "c": ReLU(), "d": Concatenate()}, {"d": ("b", "c")})
                ]
            },
            "takes no ReLU of an output that other layers take, too",
        ),
    ],
)
def test_what_it_does_not_take_is_refused(change: dict[str, Any], words: str) -> None:
    case = Case(rates=(1,), seeds=(0,), inputs="raw" if change else "whitened")
    spec = dataclasses.replace(case.specification("compiled"), **change)
    with pytest.raises(InputError, match=words):
        training.engine_of(spec).check(spec, case.data())


@pytest.fixture
def not_yet_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in "compiled", "kernels":
        monkeypatch.delitem(sys.modules, f"bnrepro.{module}")


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)


def with_an_old_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.__version__", "0.60.1")


@pytest.mark.parametrize(
    ("change", "why"), [(without_numba, ""), (with_an_old_numba, "Numba 0.60.1 is older than 0.61")]
)
def test_without_numba_as_it_is_needed_runs_are_refused_by_who_trains_them(
    not_yet_imported: None, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None], why: str
) -> None:
    change(monkeypatch)
    run = a_run({"train.engine": "compiled"})
    with pytest.raises(
        InputError, match=rf"^train.engine=compiled: needs Numba, .*{why}.*pip install 'bnrepro\[fast\]'"
    ) as told:
        train_group([run], run.dataset.value.load())
    assert "\n" not in str(told.value)


def test_the_loss_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 9, (3, 20, 10)).astype(F), rng.integers(0, 10, (1, 20))
    network = compiled.CompiledNetwork(mlp([3], 10, Normal(1), ReLU, None).layers)
    for found, wanted in zip(
        network.loss(logits, np.eye(10)[labels]),
        softmax_cross_entropy(logits.astype(float), np.eye(10)[labels]),
        strict=True,
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_it_goes_back_in_training_mode_only() -> None:
    case = Case(rates=(1,), seeds=(0,))
    spec, data = case.specification("compiled"), case.data()
    network = compiled.Compiled(spec, data).network
    params, state = network.init(np.random.default_rng(0), data.image_shape)
    x = data.train_images[None, :5].astype(F)
    logits, _, backward = network.forward(
        stack_runs([params], spec.dtype), stack_runs([state], spec.dtype), x, train=False
    )
    with pytest.raises(ValueError, match="training mode only"):
        backward(logits)


# The cache


def test_without_a_folder_for_a_cache_one_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def njit(signatures: Any, *, cache: bool, **given: Any) -> Any:
        def compile_(function: Any) -> Any:
            tried.append(kernels.config.CACHE_DIR)
            if not kernels.config.CACHE_DIR:
                raise RuntimeError("cannot cache function: no locator available")
            return function

        return compile_

    monkeypatch.setattr("numba.njit", njit)
    monkeypatch.setattr(kernels.config, "CACHE_DIR", "")
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")  # is restored in the end
    assert kernels._compiled_once(())(len) is len
    assert tried == ["", str(tmp_path)]
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path)  # where workers look
