"""The notebook runs from top to bottom, and its exercises tell right answers from wrong ones."""

import importlib
import json
import warnings
from typing import Any

import numpy as np
import pytest

from bnrepro.places import EXPERIMENTS

exercises: Any = importlib.import_module("bnrepro.experiments.exercises")
CELLS = json.loads((EXPERIMENTS / "algorithm1.ipynb").read_text("utf-8"))["cells"]


def normalise(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    return gamma * (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + eps) + beta


def gradients(dy: Any, x_hat: Any, std: Any, gamma: Any) -> Any:
    dgamma, dbeta = (dy * x_hat).sum(axis=0), dy.sum(axis=0)
    return gamma / std * (dy - dbeta / len(dy) - x_hat * dgamma / len(dy)), dgamma, dbeta


def fold(gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> Any:
    scale = gamma / np.sqrt(var + eps)
    return scale, beta - scale * mean


def moving_average(values: Any, momentum: float) -> Any:
    return np.average(values, weights=momentum ** np.arange(len(values))[::-1])


def statistics(images: Any) -> Any:
    return images.mean(axis=(0, 2, 3)), images.var(axis=(0, 2, 3))


ANSWERS: list[Any] = [normalise, gradients, fold, moving_average, statistics]
WRONG: list[Any] = [
    (1, lambda x, gamma, beta, eps: normalise(x, gamma, beta, 1e-2), "y is wrong by up to 0.0"),
    (1, lambda x, *_: x[0], "y has the shape (3,); it must have (8, 3)"),
    (
        2,
        lambda dy, x_hat, std, gamma: (dy * gamma / std, *gradients(dy, x_hat, std, gamma)[1:]),
        "dx is wrong by up to",
    ),
    (2, lambda *given: gradients(*given)[0], "must return dx, dgamma, dbeta; it returns 1 of these 3"),
    (3, lambda gamma, beta, mean, var, eps: (gamma, beta), "scale is wrong by up to"),
    (4, lambda values, momentum: sum(values) / len(values), "average is wrong by up to"),
    (5, lambda images: (images.mean(axis=0), images.var(axis=0)), "mean has the shape (2, 4, 4); it must have (2,)"),
    (5, lambda images: 1 / 0, "raises ZeroDivisionError: division by zero"),
]


@pytest.mark.parametrize("number", exercises.EXERCISES)
def test_a_right_answer_is_right(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert exercises.check(number, ANSWERS[number - 1])
    assert capsys.readouterr().out == f"exercise {number}: right\n"


@pytest.mark.parametrize(("number", "answer", "told"), WRONG)
def test_a_wrong_answer_is_told_in_one_line(
    number: int, answer: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not exercises.check(number, answer)
    out = capsys.readouterr().out
    assert out.startswith(f"exercise {number}: {told}")
    assert out.count("\n") == 1


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    assert not any(cell.get("outputs") for cell in CELLS)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cell in CELLS:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("exercise")] == [
        f"exercise {number}: not done yet" for number in exercises.EXERCISES
    ]
    table = printed.partition("mini-batches seen")[2].splitlines()[1:4]
    spreads = {line[:20].strip(): [*map(float, line[20:].split())] for line in table}
    assert spreads["right"] == pytest.approx([1, 1, 1], abs=0.05)
    assert spreads["start at 0, biased"][0] > 2
    assert min(spreads["variance not added"]) > 1000
    finals = [float(line.split()[-1]) for line in printed.splitlines() if "500 steps" in line]
    assert finals[0] < finals[1] - 0.1


def test_every_part_of_the_prose_is_in_korean_too() -> None:
    for cell in CELLS:
        if cell["cell_type"] == "markdown":
            english, _, korean = "".join(cell["source"]).partition("\n\n> ")
            assert not any("가" <= letter <= "힣" for letter in english)
            assert sum("가" <= letter <= "힣" for letter in korean) > 10
