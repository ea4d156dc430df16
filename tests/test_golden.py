"""From a command line to the numbers: what is stored equals what ``golden.py`` computes from the same words."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calls import Ended, but
from golden import Array, Run
from runs import part_of

import bnrepro
from bnrepro.store import Results

FEW = "train.steps=8 train.batch_size=30 train.measurements=8 train.probe_examples=25 train.eval_examples=200 seed=3"
ONE_STEP = " ".join(but(FEW.split(), "train.steps=1"))
DIAGNOSTICS = "diagnostics=[percentiles,inactive,gradients,covariate_shift,minibatch_shift]"
"""Those that golden.py computes too."""

WORDS = {
    # No two sizes are equal, so that none can stand for another.
    "mlp": "model=mlp model.hidden=[7,5]",
    "cnn": "model=cnn model.channels=[3,4]",
    "sigmoid": "model.activation=sigmoid",
    "relu": "model.activation=relu",
    "tanh": "model.activation=tanh",
    "none": "model.norm=none",
    "ema": "model.norm=batch",
    "options": "model.norm=batch +model.norm_options.eps=0.05 +model.norm_options.momentum=0.3",
    "population": "model.norm=batch +model.norm_options.inference=population",
    "batch": "model.norm=batch +model.norm_options.inference=batch",
    "sgd": "optimizer=sgd optimizer.lr=0.5",
    "momentum": "optimizer=momentum optimizer.lr=0.05 optimizer.momentum=0.7",
    "adagrad": "optimizer=adagrad optimizer.lr=0.08 optimizer.eps=1.0e-3",
    "free": "optimizer.weight_decay=0.0",
    "decay": "optimizer.weight_decay=0.02",
    "constant": "lr_schedule=constant",
    "step": "lr_schedule=step lr_schedule.every=3 lr_schedule.factor=0.3",
    "exponential": "lr_schedule=exponential lr_schedule.every=3 lr_schedule.factor=0.4",
    "kept": "model.dropout=0.0",
    "dropout": "model.dropout=0.3",
    "normal": "model.init.scheme=normal model.init.std=0.6",
    "xavier": "model.init.scheme=xavier",
    "he": "model.init.scheme=he",
    "grey": "dataset.binarize=false",
    "binary": "dataset.binarize=true",
}
"""What each cell of the table is on a command line."""

TABLE = """
mlp  tanh     none        momentum  free   exponential  dropout  normal  binary
mlp  relu     none        adagrad   decay  step         dropout  xavier  binary
mlp  sigmoid  none        sgd       decay  constant     dropout  xavier  grey
mlp  relu     ema         adagrad   decay  constant     dropout  he      binary
mlp  sigmoid  ema         momentum  free   exponential  dropout  xavier  grey
mlp  sigmoid  options     adagrad   decay  step         kept     he      grey
mlp  tanh     options     sgd       decay  exponential  dropout  xavier  binary
mlp  tanh     population  momentum  decay  step         kept     he      binary
mlp  tanh     batch       adagrad   free   step         dropout  xavier  grey
mlp  tanh     batch       sgd       free   constant     dropout  normal  binary
mlp  relu     batch       sgd       decay  exponential  dropout  he      binary
cnn  sigmoid  none        sgd       free   exponential  kept     he      grey
cnn  tanh     ema         sgd       decay  step         kept     normal  binary
cnn  relu     options     momentum  free   constant     kept     normal  grey
cnn  relu     population  sgd       free   constant     dropout  xavier  grey
cnn  sigmoid  population  adagrad   decay  exponential  dropout  normal  binary
cnn  sigmoid  batch       momentum  decay  exponential  kept     xavier  binary
"""
"""The least that has every two cells of different columns together in a row."""
ROWS = [tuple(line.split()) for line in TABLE.split("\n") if line]

OTHERS = {
    "the defaults": "train.steps=2",
    "the defaults of the CNN": "model=cnn train.steps=2",
    "some steps measured, over three epochs": " ".join(
        but(FEW.split(), "train.steps=11", "train.measurements=2", "train.batch_size=300")
    ),
    "steps measured that grow by a factor, with replacement": " ".join(
        but(
            FEW.split(),
            "train.steps=9",
            "train.measurements=1",
            "train.early_measurements=1.2",
            "train.order=replacement",
        )
    ),
    "none measured early, in a fixed order": " ".join(
        but(
            FEW.split(),
            "train.measurements=2",
            "train.early_measurements=false",
            "train.batch_size=700",
            "train.order=fixed",
        )
    ),
    "three hidden layers": f"{FEW} model.hidden=[6,9,4] model.norm=batch optimizer.lr=2.0",
    "three stages of a larger kernel": f"{FEW} model=cnn model.channels=[2,3,4] model.kernel=5 model.dropout=0.6",
    "diverging": f"{FEW} model.hidden=[7,5] model.activation=relu optimizer.lr=200.0 optimizer=momentum",
    "diverging by the last update": f"model.hidden=[7,5] model.activation=relu optimizer.lr=1e4 {ONE_STEP}",
}


GRID: dict[str, list[Any]] = {
    "model.activation": ["relu"],
    "model.norm": ["none", "batch"],
    "model.init.std": [0.2, 0.9],
    "optimizer.lr": [0.05, 0.6, 30.0],
    "seed": [2, 0],
}
"""At the largest rate some runs diverge, beside others that train."""

COLUMNS = {"model.activation": "activation", "model.norm": "norm", "optimizer.lr": "lr"}
"""Settings that have a shorter name in table ``runs``."""


@pytest.fixture
def stored(call: Callable[..., Ended]) -> Callable[[str], Results]:
    """``python -m bnrepro WORDS``, with a folder of its own: what it stored there."""
    numbers = itertools.count()

    def stored(words: str) -> Results:
        folder = Path("results", str(next(numbers)))
        ended = call(*words.split(), DIAGNOSTICS, f"results_dir={folder}")
        assert ended.status == 0, ended.err
        (store,) = folder.iterdir()
        return bnrepro.load(store)

    return stored


def assert_numbers(results: Results, expected: Run, *, rtol: float, atol: float, misjudged: int = 0) -> None:
    """All that is stored of one run is what is expected, up to so many test images that are judged otherwise."""
    (run,) = results.runs.to_dict("records")
    assert run["status"] == ("done" if expected.diverged_at is None else "diverged")
    ending = pd.Series({"diverged_at": expected.diverged_at, "test_accuracy": expected.test_accuracy}, dtype=float)
    np.testing.assert_equal(run["diverged_at"], ending["diverged_at"])
    test_images = len(expected.x_test)
    np.testing.assert_allclose(run["test_accuracy"], ending["test_accuracy"], atol=misjudged / test_images, rtol=1e-15)

    curves, wanted = results.curves.drop(columns="run_id"), pd.DataFrame(expected.curves)
    accuracies, examples = (curves.pop("test_accuracy"), wanted.pop("test_accuracy")), expected.s.train.eval_examples
    np.testing.assert_allclose(*accuracies, atol=misjudged / examples, rtol=1e-15)
    layers = results.layers.drop(columns="run_id")
    for stored, numbers in (curves, wanted), (layers, pd.DataFrame(expected.layers)):
        pd.testing.assert_frame_equal(stored, numbers, check_like=True, check_exact=False, rtol=rtol, atol=atol)


def assert_equal_to_rounding(results: Results, expected: Run) -> None:
    """As float64 has it: what is computed in another order differs by some units in the 16th digit."""
    assert_numbers(results, expected, rtol=1e-10, atol=1e-13)


def computed(curves: pd.DataFrame, layers: pd.DataFrame) -> Array:
    """The numbers that have the precision of training, which shares of images and of units have not."""
    per_run = curves[["train_loss", "gradient_norm", "gradient_ratio"]]
    per_layer = layers[["p15", "p50", "p85", "gradient_norm"]].dropna()
    return np.concatenate([per_run.to_numpy().ravel(), per_layer.to_numpy().ravel()])


def test_any_two_choices_meet_in_a_row_of_the_table() -> None:
    columns = [sorted({*cells}) for cells in zip(*ROWS, strict=True)]
    assert sorted(itertools.chain(*columns)) == sorted(WORDS)
    for (i, some), (j, others) in itertools.combinations(enumerate(columns), 2):
        assert {(row[i], row[j]) for row in ROWS} == {*itertools.product(some, others)}


def words_of(row: tuple[str, ...]) -> str:
    return " ".join([FEW, *(WORDS[cell] for cell in row)])


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_a_command_line_leads_to_the_numbers(stored: Callable[[str], Results], row: tuple[str, ...]) -> None:
    results = stored(f"{words_of(row)} train.dtype=float64")
    assert_equal_to_rounding(results, Run(words_of(row)).train())
    numbers = computed(results.curves, results.layers)
    assert not np.any(numbers == numbers.astype(np.float32))


@pytest.mark.parametrize("row", ROWS[::3], ids=" ".join)
def test_in_float32_to_the_rounding_of_float32(stored: Callable[[str], Results], row: tuple[str, ...]) -> None:
    results, expected = stored(f"{words_of(row)} train.dtype=float32"), Run(words_of(row)).train()
    assert_numbers(results, expected, rtol=1e-5, atol=1e-5, misjudged=1)
    numbers = computed(results.curves, results.layers)
    assert np.all(numbers == numbers.astype(np.float32))
    exact = computed(pd.DataFrame(expected.curves), pd.DataFrame(expected.layers))
    assert np.any(numbers != exact.astype(np.float32))  # not trained in float64 and rounded in the end


@pytest.mark.parametrize("name", OTHERS)
def test_other_command_lines_lead_to_their_numbers(stored: Callable[[str], Results], name: str) -> None:
    expected = Run(OTHERS[name]).train()
    assert_equal_to_rounding(stored(f"{OTHERS[name]} train.dtype=float64"), expected)
    assert (expected.diverged_at is not None) == name.startswith("diverging")


def test_in_a_sweep_each_run_has_the_numbers_of_its_own_settings(stored: Callable[[str], Results]) -> None:
    words = f"{FEW} model.hidden=[7,5] train.dtype=float64".replace(" seed=3", "")
    grid = [f"++sweep.grid.{key}=[{','.join(map(str, values))}]" for key, values in GRID.items()]
    # Groups of four runs, in some of which the seeds differ.
    results = stored(" ".join(["+sweep", words, "compute=inline", "compute.group_size=5", *grid]))
    assert len(results.runs) == math.prod(map(len, GRID.values()))
    ended = set()
    for values in itertools.product(*GRID.values()):
        chosen = dict(zip(GRID, values, strict=True))
        expected = Run(" ".join([words, *(f"{key}={value}" for key, value in chosen.items())])).train()
        query = " and ".join(f"`{COLUMNS.get(key, key)}` == {value!r}" for key, value in chosen.items())
        assert_equal_to_rounding(part_of(results, query), expected)
        ended.add(expected.diverged_at)
    assert len(ended) > 2
