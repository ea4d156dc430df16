"""The numbers in README, and in the pages of reference data, are those of the reference data, to the digit."""

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Finding, Tables, estimate, rows
from bnrepro.benchmark.contestants import ARMS, IMAGES
from bnrepro.claims import BEGIN, END
from bnrepro.experiment import import_experiment
from bnrepro.places import CHECKOUT, REFERENCE
from bnrepro.presenting import spell
from bnrepro.reference import load_reference

assert CHECKOUT
ROOT = CHECKOUT


@functools.cache
def tables(name: str) -> Tables:
    experiment = import_experiment(name)
    assert experiment
    return experiment.analyse(load_reference(name))


def number(name: str, table: str, *key: Any, scale: float = 1) -> float:
    """The value in a row of a table of an experiment."""
    found = estimate(tables(name)[table], *key)
    assert found.n, key
    return found.value * scale


def spelled(name: str, table: str, *key: Any) -> str:
    """The estimate in a row of a table of an experiment, with its interval."""
    found = spell(estimate(tables(name)[table], *key))
    assert found, key
    return found


def span(values: pd.Series, form: str) -> tuple[str, str]:
    """The least and the greatest, as text."""
    return form.format(values.min()), form.format(values.max())


def values(name: str, table: str, quantity: str, *begin: Any) -> pd.Series:
    """The values of one quantity, in the rows of a table that begin so."""
    found = rows(tables(name)[table], *begin)
    return found.xs(quantity, level="quantity")["value"] if found.index.nlevels > 1 else found.loc[[quantity], "value"]


def chosen(choice: str, norm: str, quantity: str) -> str:
    found: Any = rows(tables("figure1")["chosen"], choice, norm).xs(quantity, level="quantity")
    return spell(estimate(found, *found.index[0]))


def plain(text: str) -> str:
    """The estimate without its interval."""
    return text.partition(" [")[0]


def early(initialization: str) -> float:
    return 100 * number("figure1", "curves", "none", initialization, 0.1, 4000)


def ending(norm: str, lr: float | None = None) -> pd.Series:
    """Final accuracy in Figure 1's grid, in percent, from rate 0.025 up or at one."""
    found = values("figure1", "score", "final accuracy", norm)
    return 100 * (found if lr is None else found.xs(lr, level="lr"))


def units_at() -> str:
    """The setting at which the inputs of all units were measured."""
    return str(tables("figure1")["drift"].index.unique("setting")[0])


def relative_drift() -> pd.Series:
    """Every kind of drift of the unit in the middle of all, relative to the spread, with batch norm over without."""
    of_middle = rows(tables("figure1")["compared"], MIDDLE)["value"]
    return of_middle[of_middle.index.get_level_values("quantity").str.endswith("/ spread")]


def calmer(unit: str, *kind: str) -> str:
    """What drifts with batch norm, as a multiple of what does without."""
    return spelled("figure1", "compared", unit, units_at() if unit == MIDDLE else "not stated", *kind)


def gain(choice: str) -> str:
    return f"{100 * number('unstated', 'choices', choice, 'batch', 'gain'):+.2f}"


def faster(choice: str) -> str:
    return f"{number('unstated', 'choices', choice, 'batch', 'speed-up to 90%'):.1f}"


def score(activation: str, norm: str) -> list[str]:
    key = activation, "std 0.1", norm
    return [
        *(spelled("learning_rates", "score", *key, "other seeds", each) for each in ("accuracy", "rate")),
        *(spelled("learning_rates", "usable", *key, "90%", each) for each in ("lowest", "highest")),
        spelled("learning_rates", "steps_to_accuracy", *key, "90%", "steps"),
    ]


def compared(table: str, *key: str) -> list[str]:
    """A comparison of sigmoid networks, then of ReLU networks, with and without batch norm."""
    return [spelled("learning_rates", table, each, "std 0.1", "batch", *key) for each in ("sigmoid", "relu")]


def inception(model: str, quantity: str) -> str:
    return spelled("inception", "models", model, quantity)


def plain_inceptions(lr: float) -> pd.Series:
    """Final accuracy of each run of the plain Inception at a rate; NaN if it diverged."""
    runs = load_reference("inception").runs
    return runs.loc[(runs["activation"] == "relu") & (runs["norm"] == "none") & (runs["lr"] == lr), "test_accuracy"]


def higher_rates() -> list[Finding]:
    experiment = import_experiment("learning_rates")
    assert experiment
    return findings_of(experiment, tables("learning_rates"), "A2")


def higher(activation: str) -> tuple[str, str]:
    """How many times as high the highest usable rate is."""
    found = [finding.estimate.value for finding in higher_rates() if finding.of.startswith(f"{activation}, ")]
    return span(pd.Series(found), "{:.1f}")


def at_equal_rates(initialization: str) -> pd.Series:
    """Speed-ups to 90% where both networks get there."""
    found = tables("learning_rates")["rates"].xs("speed-up to 90%", level="quantity").query("bound == 0")
    return found.xs(initialization, level="init")["value"]


def ratios(activation: str, quantity: str, window: str = "whole", probe: int = 120) -> tuple[str, str]:
    levels = ("train.probe_examples", "window", "quantity")
    found: Any = tables("covariate_shift")["compared"].xs((probe, window, quantity), level=levels)
    return span(rows(found, activation)["value"], "{:.2g}")


def on_120(table: str, quantity: str, activation: str, norm: str) -> pd.Series:
    """What was measured on 120 training images, by rate."""
    return values("covariate_shift", table, quantity, activation, norm).xs(120, level="train.probe_examples")


def smoothness(activation: str, rates: list[float]) -> tuple[str, str]:
    found = [on_120("score", "smoothness", activation, norm) for norm in ("batch", "none")]
    return span((found[0] / found[1])[rates], "{:.2g}")


def singular(activation: str, norm: str, rates: list[float]) -> tuple[str, str]:
    found = on_120("singular_values", "median", activation, norm)
    return span(found[found.index.isin(rates)], "{:.2f}")


def largest(activation: str, norm: str) -> float:
    """The largest singular value at the rate that is the most accurate one."""
    accuracy, found = (on_120(*of, activation, norm) for of in (("score", "accuracy"), ("singular_values", "largest")))
    return float(found.to_numpy()[accuracy.argmax()])


def lost(size: int, network: str, mistake: str) -> str:
    return spelled("implementation_mistakes", "mistakes", size, network, mistake, "accuracy lost")


def by_size(size: int) -> str:
    return spelled("batch_size", "accuracy", "relu", "batch", size, "gain")


def apart(choice: str) -> float:
    """Final accuracy with batch norm less that of the base, in points."""
    ends = [number("unstated", "choices", each, "batch", "final accuracy") for each in (choice, "base")]
    return 100 * (ends[0] - ends[1])


@functools.cache
def spreads() -> pd.Series:
    """How far the seeds of each setting of Figure 1's grid end from each other, in points."""
    curves = tables("figure1")["curves"]
    last = curves[curves.index.get_level_values("step") == 50_000]
    return 100 * (last["high"] - last["low"])


@functools.cache
def shifts() -> Sequence[Finding]:
    experiment = import_experiment("covariate_shift")
    assert experiment
    findings = findings_of(experiment, tables("covariate_shift"), "2.2", "+gradient_shift")
    return [finding for finding in findings if "probe of 120, whole" in finding.of]


MIDDLE, PAPERS, GAIN = "median of all", "the paper's", "gain in best accuracy"
RISE = "rise over the last quarter of the steps"
TRAINED = [0.025, 0.1, 0.4]
NO_RESULTS = [
    "95% t-intervals",
    "five seeds (ten where the nearest setting is), 50,000 steps each",
    "Xavier, rate 0.1",
    "the criterion asks for 0.01",
    "means of five seeds at rate 0.1 and std 0.1",
    "28×28 binary images",
    "1 from half of the maximum up",
    "3 × 100 sigmoids, 10 logits",
    "| 50,000 steps of 60 examples |",
    "6 rates, 0.0063 to 6.3",
    ".01, .03, .05, .1, Xavier",
    "| 1e-5 |",
    "the unit in the middle of our 100",
    "all 100 units without",
    "Inception at 30 times the rate of a baseline that fails at 5 times",
    "best accuracy in 14 times fewer steps with batch norm",
    "Figures 2 and 3",
    "CIFAR-10, 10,500 steps of 32 images, 3 seeds",
    "3 hidden layers of 100 units, plain SGD, 50,000 steps of 60 examples",
    "start with a standard deviation of 0.1, in 5 seeds (3 for the other initializations)",
    "a final accuracy of 90% up",
    "| fewest steps to 90% |",
    "the criterion asks for 1.25 with",
    "14 times fewer on ImageNet",
    "Santurkar et al. 2018",
    "50,000 steps, 5 seeds, at equal rates",
    "On 120 training images",
    "on 120 training images",
    "singular values near 1",
    "10,000 it is smaller in most cases",
    "statistics that start at 0 have",
    "Digits, 10 seeds",
    "Ioffe 2017",
    "for ReLU networks at rate 0.1",
    "in 10 seeds ([each size",
]
"""What the page says of the paper and of settings, with numbers in it."""

DRIFT, SHIFT = "ratio of drift", "ratio of ‖G − G'‖ / ‖G‖"
SENTENCES: list[tuple[str, Callable[[], Any]]] = [
    (
        (
            "the mean curve stays within {} of the paper's without batch norm (from step 12,000 on, where it has "
            "settled) and within {} with it (from step 8,000 on)"
        ),
        lambda: [chosen("one for both", norm, "largest difference") for norm in ("none", "batch")],
    ),
    (
        "from the curve of the other arm they are {} and {} away",
        lambda: [plain(chosen("one for both", norm, "crossed difference")) for norm in ("none", "batch")],
    ),
    ("our plain network climbs sooner ({:.0f}% at step 4,000, the paper's 74%)", lambda: [early("xavier")]),
    (
        (
            "each arm comes within {} and {} of its own curve, but a network with batch norm also comes within {} of "
            "the curve *without*, and a plain one within {} of that *with*"
        ),
        lambda: [
            *(plain(chosen("each its own", norm, "largest difference")) for norm in ("none", "batch")),
            plain(chosen("each its own, swapped", "batch", "crossed difference")),
            plain(chosen("each its own, swapped", "none", "crossed difference")),
        ],
    ),
    (
        (
            "Of {} settings {} has both arms within 0.01 of their curves, with the curves swapped {}; chosen without "
            "one of the seeds, it is the same in {}% of cases"
        ),
        lambda: [
            chosen("one for both", "none", "settings"),
            chosen("one for both", "none", "settings within the bound"),
            chosen("one for both, swapped", "none", "settings within the bound"),
            f"{100 * float(chosen('one for both', 'none', 'same choice without it')):.0f}",
        ],
    ),
    (
        "from step 40,000 on ours are {} and {} below the paper's",
        lambda: [
            plain(chosen("one for both", norm, "difference at the end")).removeprefix("-") for norm in ("none", "batch")
        ],
    ),
    (
        (
            "the range of the median, smoothed over 9 measurements, is with batch norm {} times that without (the "
            "paper's {}), after step 5,000 {} times ({}), and the sum of all changes {} and {} times ({} and {})"
        ),
        lambda: [
            *(calmer(u, w, "smoothed", "range") for w in ("whole", "after a tenth") for u in (MIDDLE, PAPERS)),
            *(calmer(u, w, "smoothed", "changes") for u in (MIDDLE, PAPERS) for w in ("whole", "after a tenth")),
        ],
    ),
    (
        "shown: all of the 100, at {} |",
        lambda: [units_at().replace("xavier", "Xavier")],
    ),
    ("all that was measured is calmer with it, {} to {} times", lambda: span(relative_drift(), "{:.2f}")),
    (
        "grey images end higher, and the gain by batch norm is {} points, as against {}",
        lambda: [gain("dataset.binarize=false"), gain("base")],
    ),
    (
        (
            "with momentum nearly the same ({} points); with Adagrad the gain is {}, in {} times fewer steps to 90%, "
            "as against {}"
        ),
        lambda: [
            gain("lr=0.01, optimizer.name=momentum"),
            gain("lr=0.01, optimizer.name=adagrad"),
            faster("lr=0.01, optimizer.name=adagrad"),
            faster("base"),
        ],
    ),
    (
        "below 0.1 the plain network ends at {}% to {}%; with it every rate ends at {}% to {}%",
        lambda: [
            *span(ending("none")[lambda found: found.index.get_level_values("lr") < 0.1], "{:.0f}"),
            *span(ending("batch"), "{:.0f}"),
        ],
    ),
    (
        "without batch norm much (final accuracy at rate 0.025: {:.0f}% at .01, {:.0f}% at .1)",
        lambda: [ending("none", 0.025)["std 0.01"], ending("none", 0.025)["std 0.1"]],
    ),
    *(
        (
            f"| {name} | {{}} | {{}} | {{}} | {{}} | {{}} |",
            functools.partial(score, activation, norm),
        )
        for name, activation, norm in (
            ("sigmoid, without", "sigmoid", "none"),
            ("sigmoid, with", "sigmoid", "batch"),
            ("ReLU, without", "relu", "none"),
            ("ReLU, with", "relu", "batch"),
        )
    ),
    (
        (
            "the highest usable rate is {} to {} times as high for sigmoid and {} to {} times for ReLU, over four "
            "initializations and three measures of what is usable; the whole interval is above 1.25 in {} of these {} "
            "cases"
        ),
        lambda: [
            *higher("sigmoid"),
            *higher("ReLU"),
            sum(finding.holds is True for finding in higher_rates()),
            len(higher_rates()),
        ],
    ),
    (
        "the highest usable rate is {} times as high for sigmoid and {} for ReLU",
        lambda: compared("usable", "90%", "ratio of highest"),
    ),
    (
        (
            "Chosen on the other seeds, rates gain {} and {} of accuracy; each seed's best on its own test images, {} "
            "and {}"
        ),
        lambda: [t for chosen in ("other seeds", "its own test images") for t in compared("score", chosen, "gain")],
    ),
    (
        (
            "half of the way from chance to where the plain network ends takes {} times fewer steps for sigmoid and {} "
            "for ReLU, 99% of it {} and {}, all of it {} and {}"
        ),
        lambda: [
            text for way in (50, 99, 100) for text in compared("steps_to_accuracy", f"{way}% of the way", "speed-up")
        ],
    ),
    (
        (
            "it takes {} and {} times fewer, unless the curves are smoothed first, for that is the maximum of noise: "
            "{} and {}"
        ),
        lambda: [
            text
            for quantity in ("speed-up, raw curve", "speed-up")
            for text in compared("steps_to_accuracy", "the baseline's highest", quantity)
        ],
    ),
    (
        (
            "At equal rates at which the plain network gets to 90%, that takes {} to {} times fewer, up to {:.0f} "
            "where weights start with a standard deviation of 0.01"
        ),
        lambda: [*span(at_equal_rates("std 0.1"), "{:.1f}"), at_equal_rates("std 0.01").max()],
    ),
    (
        (
            "at the rate that is the plain network's best on validation images, {}: with batch norm it takes {} times "
            "fewer steps to the plain network's best accuracy (the paper's: {:.1f}), and the gain in best accuracy "
            "is {}"
        ),
        lambda: [
            inception("Inception", "learning rate"),
            inception("BN-Baseline", "speed-up"),
            number("inception", "models", "BN-Baseline", "speed-up in the paper"),
            inception("BN-Baseline", GAIN),
        ],
    ),
    (
        "over the last quarter of the steps the plain network's accuracy rises by {}, that with batch norm by {}",
        lambda: [inception("Inception", RISE), inception("BN-Baseline", RISE)],
    ),
    (
        "At five times the rate the gain is {} and at thirty times {}, where the rate decays six times faster",
        lambda: [inception("BN-x5", GAIN), inception("BN-x30", GAIN)],
    ),
    (
        (
            "with that of the plain network, five times the rate takes {} times fewer steps and gains {}; thirty times "
            "the rate gains {}, and still rises by {}"
        ),
        lambda: [
            inception("BN-x5-Slow", "speed-up"),
            inception("BN-x5-Slow", GAIN),
            inception("BN-x30-Slow", GAIN),
            inception("BN-x30-Slow", RISE),
        ],
    ),
    (
        (
            "Without batch norm, five times the rate gains {}; it diverges with {:.0f}% of the seeds, and with {:.0f}% "
            "stays at chance, below 20%"
        ),
        lambda: [
            inception("Inception-x5", GAIN),
            number("inception", "models", "Inception-x5", "diverged", scale=100),
            100 * (plain_inceptions(0.2) < 0.2).mean(),
        ],
    ),
    (
        (
            "inputs drift {} to {} times as far with batch norm for sigmoid and {} to {} for ReLU, "
            "while ‖G − G′‖ / ‖G‖ is {} to {} times the plain network's for sigmoid and {} to {} for ReLU"
        ),
        lambda: [text for measure in (DRIFT, SHIFT) for a in ("sigmoid", "relu") for text in ratios(a, measure)],
    ),
    (
        (
            "In the first third of the steps, on 120 images, "
            "inputs drift {} to {} times as far for sigmoid and {} to {} for ReLU, and "
            "gradients change {} to {} and {} to {} times as much"
        ),
        lambda: [t for m in (DRIFT, SHIFT) for a in ("sigmoid", "relu") for t in ratios(a, m, "early")],
    ),
    (
        (
            "On the training mini-batch itself, which is Definition 2.1 of the critics to the letter, it is {} to {} "
            "times and {} to {} times; on 4,000 images only {} to {} and {} to {} times, and inputs drift {} to {} and "
            "{} to {} times as far"
        ),
        lambda: [
            *(text for a in ("sigmoid", "relu") for text in ratios(a, f"{SHIFT} on mini-batches")),
            *(
                text
                for measure in (SHIFT, DRIFT)
                for a in ("sigmoid", "relu")
                for text in ratios(a, measure, probe=4000)
            ),
        ],
    ),
    (
        (
            "in the last third inputs drift {} to {} and {} to {} times as far, and gradients change {} to {} and {} "
            "to {} times as much"
        ),
        lambda: [t for m in (DRIFT, SHIFT) for a in ("sigmoid", "relu") for t in ratios(a, m, "late")],
    ),
    (
        (
            "the median singular value is {} to {} with batch norm and {} to {} without for sigmoid, {} to {} and {} "
            "to {} for ReLU where both train"
        ),
        lambda: [
            text
            for activation, rates in (("sigmoid", [*TRAINED, 1.6]), ("relu", TRAINED))
            for norm in ("batch", "none")
            for text in singular(activation, norm, rates)
        ],
    ),
    (
        "Statistics outside the gradient cost {} of accuracy in mini-batches of 4 and {} in mini-batches of 60",
        lambda: [lost(size, "mlp", "statistics outside the gradient") for size in (4, 60)],
    ),
    (
        "statistics per pixel cost {} in mini-batches of 4, and {} in mini-batches of 60",
        lambda: [lost(size, "cnn", "statistics per pixel") for size in (4, 60)],
    ),
    (
        "leaving out m/(m−1) costs {} in mini-batches of 4",
        lambda: [lost(4, "mlp", "no m/(m−1) at inference")],
    ),
    (
        "a running variance that is never updated costs {} in mini-batches of 60, but {} in mini-batches of 4",
        lambda: [lost(size, "mlp", "running variance never updated") for size in (60, 4)],
    ),
    (
        "the gain by it is {} of accuracy in mini-batches of 2, {} in mini-batches of 4 and {} in those of 60",
        lambda: [by_size(2), by_size(4), by_size(60)],
    ),
    (
        (
            "with replacement no: the gain is {} points, in {} times fewer steps to 90%; in one fixed order, where "
            "each mini-batch comes back in every epoch, the speed-up is {}, but the gain {} |"
        ),
        lambda: [
            gain("train.order=replacement"),
            faster("train.order=replacement"),
            faster("train.order=fixed"),
            spelled("unstated", "choices", "train.order=fixed", "batch", "gain"),
        ],
    ),
    (
        "with it by {:.1f} points at most from rate 0.025 up",
        lambda: [max(np.ptp(ending("batch", lr)) for lr in (0.025, 0.1, 0.4, 1.6, 6.3))],
    ),
    (
        "1e-3 and 1e-8 end within {:.2f} points of it",
        lambda: [max(abs(apart("model.norm_options.eps=0.001")), abs(apart("model.norm_options.eps=1e-08")))],
    ),
    (
        "those of Algorithm 2 end within {:.2f} points",
        lambda: [abs(apart("model.norm_options.inference=population"))],
    ),
    (
        "seeds end within {:.1f} points of each other, except at {} plain setting, at the edge of failing",
        lambda: [spreads()[spreads() < 5].max(), (spreads() >= 5).sum()],
    ),
    (
        "of these {} ratios {} differ from 1 as claimed with their whole intervals",
        lambda: [len(shifts()), sum(finding.holds is True for finding in shifts())],
    ),
    (
        "is {} to {} times the plain network's for sigmoid and {} to {} for ReLU where both train (over the first",
        lambda: [*smoothness("sigmoid", [*TRAINED, 1.6]), *smoothness("relu", TRAINED)],
    ),
    (
        "at the most accurate rates the largest are {} to {}",
        lambda: span(
            pd.Series([largest(activation, norm) for activation in ("sigmoid", "relu") for norm in ("none", "batch")]),
            "{:.1f}",
        ),
    ),
]


@functools.cache
def benchmark(name: str) -> pd.DataFrame:
    """A table of the benchmark."""
    return pd.read_csv(REFERENCE / "benchmark" / f"{name}.csv")


Kind = tuple[int, str]
NORMS = ("none", "batch")
MNIST, FASHION, DIGITS = IMAGES
"""The images that the benchmark's stand in for."""


def microseconds(images: Kind, activation: str, norm: str, contestant: str) -> float:
    runs = 1 if contestant == "PyTorch" else 8
    activation, norm = ARMS[0] if contestant == "floor" else (activation, norm)
    key = dict(zip(("inputs", "images"), images, strict=True))
    which = key | {"activation": activation, "norm": norm, "contestant": contestant, "runs": runs}
    steps = benchmark("steps")
    (found,) = steps[(steps[list(which)] == pd.Series(which)).all(axis=1)]["median"]
    return float(found)


def speeds(images: Kind, activation: str) -> list[float]:
    who = ("bnrepro", "compiled", "JAX", "PyTorch compiled", "PyTorch")
    products = microseconds(images, activation, "none", "floor")
    return [products, *(microseconds(images, activation, norm, name) for name in who for norm in NORMS)]


def over_jax(images: Kind, contestant: str) -> tuple[str, str]:
    """How many times as fast as JAX a contestant is, at least and at most in the arms."""
    jax, theirs = (pd.Series([microseconds(images, *arm, name) for arm in ARMS]) for name in ("JAX", contestant))
    return span(jax / theirs, "{:.2f}")


def milliseconds(inputs: int) -> list[float]:
    found = benchmark("convolutions").query("inputs == @inputs").set_index("contestant")["median"] / 1000
    return [float(found[name]) for name in ("bnrepro", "compiled", "PyTorch", "PyTorch channels last")]


def around(*what: str) -> list[float]:
    return [float(value) for value in benchmark("around").set_index("what").loc[[*what], "value"]]


def limit(what: str, quantity: str) -> float:
    found: Any = benchmark("limits").set_index("what").loc[what, quantity]
    return float(found)


OF_SPEED: list[tuple[str, Callable[[], Any]]] = [
    *(
        (f"| {name} | {{:.0f}}" + 5 * " | {:.0f} / {:.0f}" + " |", functools.partial(speeds, images, activation))
        for name, images, activation in (
            ("28×28 images like MNIST's, sigmoid", MNIST, "sigmoid"),
            ("28×28 images like MNIST's, ReLU", MNIST, "relu"),
            ("28×28 images, dense, sigmoid", FASHION, "sigmoid"),
            ("28×28 images, dense, ReLU", FASHION, "relu"),
            ("8×8 images, sigmoid", DIGITS, "sigmoid"),
            ("8×8 images, ReLU", DIGITS, "relu"),
        )
    ),
    (
        "compiled engine is {} to {} times as fast as JAX",
        lambda: over_jax(MNIST, "compiled"),
    ),
    ("and NumPy {} to {} times;", lambda: over_jax(MNIST, "bnrepro")),
    (
        "on dense ones it is {} to {} and NumPy {} to {}, on 8×8 images {} to {} and {} to {} times.",
        lambda: [n for kind in (FASHION, DIGITS) for who in ("compiled", "bnrepro") for n in over_jax(kind, who)],
    ),
    (
        (
            "takes {:.1f} ms in NumPy on 28×28 images (8 and 16 feature maps, 60 examples), {:.1f} compiled, {:.1f} in "
            "PyTorch, and {:.1f} with channels last; {:.1f}, {:.1f}, {:.1f} and {:.1f} ms on 3×32×32 images"
        ),
        lambda: milliseconds(784) + milliseconds(3072),
    ),
    (
        (
            "The main job, which was of 96 runs then, takes {:.0f} s in NumPy and {:.0f} s compiled on two cores, "
            "50,000 steps on MNIST with batch norm and 113 measurements of 10,000 images {:.0f} and {:.0f} s "
            "(extrapolated)"
        ),
        lambda: around(
            "+sweep with 2 workers, seconds",
            "+sweep with 2 workers, compiled, seconds",
            "a run on MNIST, sigmoid + BN, numpy, seconds",
            "a run on MNIST, sigmoid + BN, compiled, seconds",
        ),
    ),
    (
        "{:.0%} and {:.0%} of a sweep on MNIST is measuring",
        lambda: around(*(f"measuring, share of a sweep on mnist, {engine}" for engine in ("numpy", "compiled"))),
    ),
    (
        (
            "A second worker gives {:.2f} times the throughput of one; `--help` takes {:.1f} s, the first step on "
            "MNIST comes {:.1f} s after the command, and its workers take {:.0f} MB each"
        ),
        lambda: around(
            "2 workers, as a multiple of 1",
            "--help, seconds",
            "first step of a sweep on MNIST, seconds",
            "peak of its workers, MB",
        ),
    ),
    (
        (
            "in NumPy they would ask the memory for {:.0f} GB/s, were there no shared cache, compiled for {:.0f}; they "
            "would end {:.0f} and {:.0f} runs of 50,000 steps a second, where the store takes {:.0f}"
        ),
        lambda: [
            *(
                limit(engine, quantity)
                for quantity in ("GB/s of 64", "runs/s of 64")
                for engine in ("numpy", "compiled")
            ),
            limit("store", "runs/s of 64"),
        ],
    ),
]
NO_SPEED = [
    "Zen 4",
    "OpenBLAS 0.3.31, kernel SkylakeX, one thread; NumPy 2.4.6, JAX 0.10.2, PyTorch 2.13; medians of 9 interleaved",
    "Contestants have 8 runs each",
    "pixels that are 0",
    "(16 to 128 maps, 32 examples)",
    "What limits 64 cores",
]

IN_SHORT: list[tuple[str, Callable[[], Any]]] = [
    (
        (
            "is {} to {} times as fast as JAX's in NumPy, and {} to {} times with the compiled engine "
            "(`train.engine=compiled`); on dense images {} to {} and {} to {} times."
        ),
        lambda: [n for kind in (MNIST, FASHION) for who in ("bnrepro", "compiled") for n in over_jax(kind, who)],
    ),
]

Part = tuple[str, str]
"""A page of the project, and a heading in it."""

PARTS: dict[Part, tuple[list[tuple[str, Callable[[], Any]]], list[str]]] = {
    ("results/reference/README.md", "## What the paper claims"): (SENTENCES, NO_RESULTS),
    ("results/reference/benchmark/README.md", "## How fast"): (OF_SPEED, NO_SPEED),
    ("README.md", "## How fast"): (IN_SHORT, []),
    ("README.md", "## What the paper claims"): ([], ["95% intervals"]),
}
EVERY = [(part, " ".join(sentence.split()), found) for part, (all_, _) in PARTS.items() for sentence, found in all_]


def text_of(part: Part) -> str:
    """What a page says under a heading, in one line, without the table of claims that ``+claims`` writes into it."""
    page, heading = part
    text = re.sub(f"{re.escape(BEGIN)}.*{END}", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    return " ".join(text.partition(heading)[2].partition("\n## ")[0].split())


@pytest.mark.parametrize(("part", "sentence", "found"), EVERY, ids=[sentence[:40] for _, sentence, _ in EVERY])
def test_a_sentence_has_the_numbers_of_the_reference_data(part: Part, sentence: str, found: Callable[[], Any]) -> None:
    assert sentence.format(*found()) in text_of(part)


@pytest.mark.parametrize("part", PARTS, ids=": ".join)
def test_no_other_number_is_a_result(part: Part) -> None:
    text = text_of(part)
    for of_part, sentence, found in EVERY:
        text = text.replace(sentence.format(*found()), "") if of_part == part else text
    for known in PARTS[part][1]:
        assert known in text, known
        text = text.replace(known, "")
    text = re.sub(r"\]\([^)]*\)|`[^`]*`|Sections? [\d.]+|Figure \d(\([abc, ]+\))?", "", text)
    assert not re.findall(r"[^.]*\d[^.]*", text)
