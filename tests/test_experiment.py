"""What an experiment is, how it is found, and what is refused before training."""

import dataclasses
import re
from pathlib import Path

import pytest
from made_up import write_experiment
from runs import settings

from bnrepro.errors import InputError
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.sweeping import expand

WITHOUT_NORM = """
from dataclasses import dataclass
from bnrepro.recipe import Architecture


@dataclass(frozen=True)
class Model(Architecture):
    def build(self, classes):
        raise NotImplementedError
"""


def test_a_sweep_need_not_have_an_experiment() -> None:
    assert import_experiment("nothing") is None


def test_an_experiment_of_ones_own_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = import_experiment("mine")
    assert isinstance(found, Experiment)
    assert found.columns("layer") == ["p50"]
    assert found.columns("unit") == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def score(results):\n    return None\n", r"must have EXPERIMENT, a bnrepro\.experiment\.Experiment"),
        ("EXPERIMENT = 1\n", r"must have EXPERIMENT, a bnrepro\.experiment\.Experiment"),
        (
            "import nothing_of_the_kind\n",
            r"can't be imported \(ModuleNotFoundError: No module named 'nothing_of_the_kind'\)",
        ),
        ("def broken(:\n", r"can't be imported \(SyntaxError: "),
        ("x = '\0'\n", r"can't be imported \(\w+: source code string cannot contain null bytes"),
        ("x = 1 / 0\n", r"can't be imported \(ZeroDivisionError: division by zero\)"),
        ("import sys\nsys.exit('no')\n", r"can't be imported \(SystemExit: no\)"),
        ("from bnrepro.experiment import *\nEXPERIMENT = Experiment()\n", r"can't be imported \(TypeError: "),
    ],
)
def test_a_file_without_an_experiment_is_refused(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_experiment(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: {told}"):
        import_experiment("mine")


def test_a_sweep_whose_runs_lack_what_is_compared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_without_norm.py").write_text(WITHOUT_NORM)
    monkeypatch.syspath_prepend(tmp_path)
    runs = expand(settings({"model": {"name": "mine_without_norm.Model"}}), {"seed": [0]})
    experiment = import_experiment("learning_rates")
    assert experiment
    told = r"^activation: learning_rates compares it, and no run of this sweep has such a setting$"
    with pytest.raises(InputError, match=told):
        experiment.check("learning_rates", runs)


def test_a_sweep_without_the_predictions_that_are_needed_is_refused() -> None:
    experiment = import_experiment("learning_rates")
    assert experiment
    needy = dataclasses.replace(experiment, needs=[*experiment.needs, "predictions"])
    needy.check("mine", expand(settings({"train.predictions": True}), {"seed": [0]}))
    with pytest.raises(InputError, match=r"^train\.predictions=false: must be true for mine, which reads them$"):
        needy.check("mine", expand(settings(), {"seed": [0]}))
