"""What is installed, and where: ours, and the user's own."""

import importlib
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

import bnrepro
from bnrepro import places
from bnrepro.composition import compose
from bnrepro.errors import InputError
from bnrepro.places import CONF, EXPERIMENTS, REFERENCE, find_experiment

ROOT = Path(__file__).parents[1]
MINE = "grid: {seed: [0, 1]}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def the_line(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Ours


def test_ours_stand_beside_the_package_in_a_checkout() -> None:
    assert places.CHECKOUT == ROOT
    assert (CONF, EXPERIMENTS, REFERENCE) == (ROOT / "conf", ROOT / "experiments", ROOT / "results" / "reference")


def test_modules_of_experiments_are_those_beside_the_package_that_is_in_use() -> None:
    layers = importlib.import_module("bnrepro.experiments.wrong_layers")
    assert layers.__file__ == str(EXPERIMENTS / "wrong_layers.py")


def test_wrong_layers_can_be_imported_without_what_draws() -> None:
    script = (
        "import sys, bnrepro.experiments.wrong_layers as w; w.PerPixel; "
        "print([name for name in ('matplotlib', 'pandas', 'hydra', 'scipy.stats') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-W", "error", "-c", script], text=True) == "[]\n"


class Found(Distribution):
    """A distribution in some folder."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder, self.text = folder, f"Metadata-Version: 2.1\nName: bnrepro\nVersion: {version}\n"

    def read_text(self, filename: str) -> str | None:
        return self.text if filename == "METADATA" else None

    def locate_file(self, path: Any) -> Path:
        return Path(self.folder, path)


def test_the_version_is_that_of_the_environment_and_not_of_what_a_build_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Found(ROOT, "0.0.1"), Found(ROOT / ".venv" / "site-packages", "7.8")]
    monkeypatch.setattr(places, "distributions", lambda name: found)
    assert places.installed_version() == "7.8"
    found.pop()
    with pytest.raises(ImportError, match=r"^bnrepro: not installed, only cloned; python -m pip install -e /.* does"):
        places.installed_version()
    assert bnrepro.__version__ == places.VERSION


@pytest.mark.parametrize("code", [["-m", "bnrepro", "+sweep"], ["-c", "import bnrepro"]])
def test_a_clone_that_is_not_installed_says_so_at_once(code: list[str]) -> None:
    # -S: without site-packages, so without what bnrepro needs
    done = subprocess.run([sys.executable, "-S", *code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    told = f"bnrepro: not installed, only cloned; python -m pip install -e {ROOT} does that"
    assert done.stderr.splitlines()[-1].removeprefix("ImportError: ") == told
    assert done.stderr.count("\n") == 1 or code[0] == "-c"


# The user's own


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, whose name needs care."""
    folder = tmp_path / "여기 있는 것"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_own_options_are_found_in_the_current_folder(here: Path) -> None:
    write(here / "conf" / "sweep" / "mine.yaml", MINE)
    write(here / "conf" / "dataset" / "ours.yaml", "name: digits\nbinarize: true\n")
    composed = compose(["sweep=mine", "dataset=ours"])
    assert composed["sweep"]["grid"] == {"seed": [0, 1]}
    assert composed["dataset"]["binarize"] is True


HEAD = (EXPERIMENTS / "README.md").read_text("utf-8").partition("```yaml\n")[2].partition("```")[0]


SWEEPS = {path.stem: path.read_text("utf-8") for path in sorted(CONF.glob("sweep/*.yaml"))}
OF_THE_PAPERS_SCALE = [name for name, text in SWEEPS.items() if "- optional scale: ${dataset}" in text]


@pytest.mark.parametrize("name", [*OF_THE_PAPERS_SCALE, "mine"])
@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_every_sweep_on_mnist_is_of_the_papers_scale_one_of_ones_own_too(here: Path, name: str, dataset: str) -> None:
    write(here / "conf" / "sweep" / "mine.yaml", HEAD + MINE)
    composed = compose([f"sweep={name}", f"dataset={dataset}"])
    assert (composed["train"]["steps"], composed["train"]["eval_examples"]) == (50_000, 10_000)
    assert composed["sweep"]["grid"]["dataset"]["binarize"] == [True]
    assert composed["sweep"]["grid"]["seed"] == [0, 1, 2, 3, 4]
    assert compose([f"sweep={name}"])["train"]["steps"] == 3000


def test_own_experiments_are_found_in_the_current_folder(here: Path) -> None:
    assert find_experiment("mine") is None
    mine = write(here / "experiments" / "mine.py", "")
    assert find_experiment("mine") == mine
    assert find_experiment("figure1") == EXPERIMENTS / "figure1.py"


def test_an_option_that_two_folders_have_is_refused_if_it_is_chosen(here: Path) -> None:
    own = write(here / "conf" / "sweep" / "figure1.yaml", MINE)
    with pytest.raises(InputError) as error:
        compose(["sweep=figure1"])
    assert the_line(error) == f"{own}: has the name of {CONF / 'sweep' / 'figure1.yaml'}; rename it"
    compose(["sweep=learning_rates"])
    write(here / "conf" / "dataset" / "digits.yaml", "name: digits\n")  # chosen unless another is
    with pytest.raises(InputError, match=r"digits.yaml: has the name of .*digits.yaml; rename it$"):
        compose([])


def test_an_experiment_of_two_folders_is_refused_before_anything_is_trained(here: Path) -> None:
    own = write(here / "experiments" / "figure1.py", "")
    compose(["sweep=learning_rates"])
    with pytest.raises(InputError) as error:
        compose(["sweep=figure1"])
    assert the_line(error) == f"{own}: has the name of {EXPERIMENTS / 'figure1.py'}; rename it"


def test_folders_of_options_are_those_of_the_last_command(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = write(tmp_path / "elsewhere" / "experiments" / "mine.py", "")
    (tmp_path / "elsewhere" / "settings").mkdir()
    compose([f"hydra.searchpath=['file://{tmp_path}/elsewhere/settings']"])
    assert find_experiment("mine") == elsewhere
    compose([])
    assert find_experiment("mine") is None
