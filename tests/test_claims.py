"""The ledger of the paper's claims: no claim is missing or told twice, and what is written is what was found."""

import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest
from made_up import write_experiment

from bnrepro import places
from bnrepro.claims import BEGIN, COLUMNS, END, EXACT, LEDGER, UNTESTED, count, ledger, spell_ledger, write_ledger
from bnrepro.experiment import import_experiment
from bnrepro.stale import STALE, standings

ROOT = Path(__file__).parents[1]

FINDING = {"of": "accuracy at 0.1", "value": 0.93, "low": 0.92, "high": None, "n": 3, "bound": 1, "holds": True}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with an experiment, ``mine``, that claims A2; it has no reference data yet."""
    path = write_experiment(tmp_path)
    path.write_text(path.read_text().replace('id="+mine"', 'id="A2"').replace("Section 0", "Abstract"))
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "mine.yaml").touch()
    monkeypatch.setattr(places, "CONF", tmp_path / "conf")
    monkeypatch.setattr(places, "EXPERIMENTS", path.parent)
    monkeypatch.setattr(places, "REFERENCE", tmp_path / "results" / "reference")
    (tmp_path / "README.md").write_text(f"Above.\n\n{BEGIN}\nold\n{END}\n\nBelow.\n")
    return tmp_path


def find(checkout: Path, *findings: dict[str, Any], id_: str = "A2", answer: str = "reproduces") -> None:
    """Give ``mine`` reference data, and this as what was found in them."""
    folder = checkout / "results" / "reference" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    verdict = {"facet": {}, "answer": answer, "findings": findings}
    told = {"runs": 2, "of": 2, "claims": [{"id": id_, "verdicts": [verdict]}]}
    (folder / "verdict.json").write_text(json.dumps(told))
    runs = "dataset,steps,seed,lr,seconds\nmnist,3000,0,0.1,100\nmnist,50000,1,0.1,50\n"
    (folder / "runs.csv.xz").write_bytes(lzma.compress(runs.encode()))


def row_of(id_: str) -> dict[str, Any]:
    rows = ledger()
    (row,) = rows[rows["id"] == id_].to_dict("records")
    return {str(key): value for key, value in row.items()}


def test_a_claim_has_what_was_found_in_the_reference_data(mine: Path) -> None:
    find(mine, FINDING, FINDING | {"holds": None})
    row = row_of("A2")
    assert row == row | {
        "section": "Abstract",
        "claim": "It learns.",
        "verdict": "reproduces",
        "of": "accuracy at 0.1",
        "value": 0.93,
        "low": 0.92,
        "bound": 1,
        "held": "holds in 1 of 2 findings, fails in 0",
        "criterion": "It ends at 50% or more.",
        "scale": "mnist, 3,000 to 50,000 steps, 2 seeds; 3 min on one core",
        "command": "python -m bnrepro +sweep=mine dataset=mnist",
        "figure": "mine/mine.png",
    }
    assert row["high"] != row["high"]
    assert "> 0.9300 [0.9200, ]; holds in 1 of 2 findings, fails in 0" in " ".join(spell_ledger(ledger()).split())


@pytest.mark.parametrize("known", [False, True])
def test_a_claim_without_reference_data_is_not_run(mine: Path, known: bool) -> None:
    if known:  # of another claim
        find(mine, FINDING, id_="+other")
    row = row_of("A2")
    assert (row["verdict"], row["scale"], row["figure"]) == ("not run", "", "")
    assert row["command"] == "python -m bnrepro +sweep=mine"


def test_nothing_found_is_a_verdict_too(mine: Path) -> None:
    find(mine, answer="can't be told from these runs")
    row = row_of("A2")
    assert (row["verdict"], row["held"]) == ("can't be told from these runs", "holds in 0 of 0 findings, fails in 0")


def test_the_papers_claims_are_in_its_order_and_others_follow(mine: Path) -> None:
    find(mine, FINDING)
    other = mine / "experiments" / "other.py"
    other.write_text((mine / "experiments" / "mine.py").read_text().replace('id="A2"', 'id="+other"'))
    (mine / "conf" / "sweep" / "other.yaml").touch()
    found = ledger()["id"].tolist()
    assert found == [*(each for each in LEDGER if each == "A2" or each in UNTESTED), "+other"]
    assert count(ledger()) == f"{1 + len(UNTESTED)} claims of the paper; not tested here: 4, exact: 2, reproduces: 1."


def test_the_ledger_fits_the_screen(mine: Path) -> None:
    find(mine, FINDING)
    assert max(map(len, spell_ledger(ledger()).splitlines())) <= 100


def test_the_ledger_is_written_into_the_files_of_a_checkout(mine: Path) -> None:
    find(mine, FINDING | {"of": "a|b"})
    rows = ledger()
    written = [*write_ledger(rows, mine, ["one", "two"])]
    reference = mine / "results" / "reference"
    assert written == [reference / "claims.csv", reference / "claims.md", mine / "README.md"]
    header, first, *_ = (reference / "claims.csv").read_text().splitlines()
    assert header == ",".join(COLUMNS)
    begin = 'A2,Abstract,It learns.,reproduces,a|b,0.93,0.92,,3,1,"holds in 1 of 1 findings, fails in 0",It ends at 50%'
    assert first.startswith(begin)
    page, readme = (path.read_text("utf-8") for path in written[1:])
    for text, link in ((page, "](mine/mine.png) |"), (readme, "](results/reference/mine/mine.png) |")):
        assert (count(rows) in text) == (text == page)
        (line,) = (line for line in text.splitlines() if "It learns." in line)
        assert "| a\\|b: > 0.930 [0.920, ] |" in line
        assert line.endswith(link)
    assert re.fullmatch(rf"Above\.\n\n{re.escape(BEGIN)}\n((\|.* \|\n)+\n?){{2}}{END}\n\nBelow\.\n", readme)
    assert f"| reproduces | 1 of {len(UNTESTED) + 1} | A2 |\n" in readme
    told = re.findall(r"^\| [a-z' ]+ \| \d+ of \d+ \| (.*) \|$", readme, re.MULTILINE)
    assert sorted(", ".join(told).split(", ")) == sorted(rows["id"])  # none is missing, none stands twice
    assert "[stale reference data](README.md), which other code computed: one, two." in page
    assert [*write_ledger(rows, mine, [])] == written
    assert "stale" not in written[1].read_text("utf-8")
    assert (mine / "README.md").read_text("utf-8") == readme


@pytest.mark.parametrize("text", ["Mine.", f"{BEGIN}\nMine.", f"Mine.\n{END}"])
def test_a_readme_without_marks_is_left_alone(mine: Path, text: str) -> None:
    (mine / "README.md").write_text(text)
    assert mine / "README.md" not in [*write_ledger(ledger(), mine, [])]
    assert (mine / "README.md").read_text() == text


def test_no_claim_is_told_twice_and_all_ids_are_known() -> None:
    found = [
        (claim.id, name)
        for name in sorted(path.stem for path in places.CONF.glob("sweep/*.yaml"))
        for experiment in [import_experiment(name)]
        for claim in (experiment.claims if experiment else ())
    ]
    ids = [id_ for id_, _ in found]
    assert len({*ids, *UNTESTED}) == len(ids) + len(UNTESTED), found
    assert not [id_ for id_ in (*ids, *UNTESTED) if id_ not in LEDGER and id_[0] != "+"]
    assert len({*LEDGER}) == len(LEDGER) == 45
    assert [id_ for id_ in LEDGER if id_ not in (*ids, *UNTESTED)] == []  # none is missing


@pytest.mark.parametrize("id_", [id_ for id_, claim in UNTESTED.items() if claim.answer == EXACT])
def test_what_is_exact_is_shown_by_a_test(id_: str) -> None:
    file, _, test = UNTESTED[id_].reason.partition("::")
    assert re.search(rf"^def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def test_what_is_committed_is_what_is_written(tmp_path: Path) -> None:
    assert places.CHECKOUT
    (tmp_path / "README.md").write_bytes((places.CHECKOUT / "README.md").read_bytes())
    old = [name for name, (state, _) in standings().items() if state == STALE]
    for path in write_ledger(ledger(), tmp_path, old):
        assert path.read_text("utf-8") == (places.CHECKOUT / path.relative_to(tmp_path)).read_text("utf-8")
