"""The pages that tell how to use this have no dead links, and commands and examples that do what they say."""

import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calls import Ended, but, in_a_process, key_of
from gradients import assert_gradients
from runs import write_idx

from bnrepro import api, commands
from bnrepro.places import CHECKOUT

assert CHECKOUT
ROOT = CHECKOUT
PAGES = sorted(
    [
        ROOT / "README.md",
        *(p for f in ("bnrepro", "conf", "experiments", "results", "tests") for p in (ROOT / f).rglob("*.md")),
    ]
)
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    if not link.startswith("https://")
]


def headings(page: Path) -> list[str]:
    """The anchors of a page, as they are made of its headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in found]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=[f"{page.relative_to(ROOT)}-{link}" for page, link in LINKS])
def test_no_link_is_dead(page: Path, link: str) -> None:
    file, _, anchor = link.partition("#")
    target = page.parent / file if file else page
    assert target.exists()
    assert not anchor or anchor in headings(target)


def commands_in(page: Path) -> Iterator[list[str]]:
    """The arguments of this project's commands in the blocks of a page."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:3] == ["python", "-m", "bnrepro"]:
                yield words[3:]


COMMANDS = [(page, words) for page in PAGES for words in commands_in(page)]
NAMES = [f"{page.relative_to(ROOT)}: {' '.join(words)}" for page, words in COMMANDS]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=NAMES)
def test_a_command_is_understood(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, page: Path, words: list[str]
) -> None:
    asked = []

    def check_runs(settings: Any, *around: Any) -> None:
        asked.append(api.runs_of(settings, around[-1]))

    for name in ("one_run", "sweep", "show"):
        monkeypatch.setattr(commands, name, check_runs)
    for name in ("check", "claims", "report", "runs", "make_references"):
        monkeypatch.setattr(commands, name, lambda *given: asked.append(given))
    monkeypatch.setattr("bnrepro.benchmark.benchmark", lambda *given: asked.append(given))
    ended = call(*[word.replace("mine.Softsign", "relu") for word in words])
    assert (ended.status, ended.err) == (0, "")
    assert asked or any(word.startswith(("--help", "+help")) for word in words)


SHORT = ["train.steps=4", "train.measurements=2"]
OF_README = [words for page, words in COMMANDS if page == ROOT / "README.md"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where README's commands are given one after another, with its example beside them."""
    folder = tmp_path_factory.mktemp("readme")
    write_idx(folder / "mnist", count=200)
    (folder / "mine.py").write_text(example())
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("words", OF_README, ids=" ".join)
def test_a_command_of_readme_does_what_it_says(folder: Path, words: list[str]) -> None:
    more = shortened(words)
    ended = in_a_process(["-m", "bnrepro", *but(more, *words)], folder)
    assert ended.status == 0, ended.err
    assert ended.out


def shortened(words: Sequence[str]) -> list[str]:
    """What makes a command that trains a short one, on made-up images."""
    trains = not words or any(
        key_of(word) in ("sweep", "verify", "show", "model.norm", "model.activation") for word in words
    )
    if not trains or any("reference" in word for word in words):
        return []
    if "+verify" in words:
        return ["verify.sample=1"]
    made_up = ["dataset.root=mnist", "dataset.sha256=null", "dataset.validation=20"]
    return [*SHORT, *(made_up if "dataset=mnist" in words else [])]


def example() -> str:
    """The module of one's own that README shows."""
    (found,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_example_of_readme_is_right() -> None:
    found: dict[str, Any] = {}
    exec(example(), found)
    layer, x, cotangent = found["Softsign"](), np.array([[[-3.0, -0.5, 0.7, 4.0]]]), np.array([[[2.0, -1.0, 3.0, 0.5]]])
    y, _, backward = layer.forward({}, {}, x, train=True)
    np.testing.assert_allclose(y, x / (1 + np.abs(x)))
    gradients = {"x": backward(cotangent)[0]}
    assert_gradients(lambda at: layer.forward({}, {}, at["x"], train=True)[0], {"x": x}, cotangent, gradients)


def test_what_is_cited_is_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    entry = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert entry["version"] == project["version"]
    assert entry["author"] == project["authors"][0]["name"]
    assert entry["license"] == project["license"]
    title = entry["title"].replace("\\&", "&")
    assert title.lower() == f"{project['name']}: {project['description']}".lower()
    assert f"**{project['version']}**" in (ROOT / "bnrepro" / "README.md").read_text("utf-8")
    assert entry["author"] in (ROOT / "LICENSE").read_text("utf-8")
    assert f"(c) {entry['year']} " in (ROOT / "LICENSE").read_text("utf-8")
