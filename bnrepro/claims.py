"""Make the ledger: every testable claim of the paper with its verdict on the reference data, or why it has none.

A row is what an experiment claims (:class:`bnrepro.experiment.Claim`), beside what its reference data say. No row is
written by hand but those of claims that no experiment tests.
"""

from __future__ import annotations

import itertools
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from . import places
from .analysis import NOTHING, Estimate
from .experiment import Claim, import_experiment
from .figures import atomic_write
from .presenting import DIGITS, spell
from .stale import describe

LEDGER = (
    "A1", "A2", "A3", "A4", "A5", "A6", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8",
    "2.1", "2.2", "2.3", "2.4", "3.a", "3.b", "3.1a", "3.1b", "3.1c", "3.2a", "3.2b", "3.2c",
    "3.3a", "3.3b", "3.3c", "3.3d", "3.3e", "3.3f", "3.4a", "3.4b", "4.1a", "4.1b",
    "4.2.1", "4.2.2a", "4.2.2b", "4.2.2c", "4.2.3", "5.a", "5.b", "5.c", "5.d",
)  # fmt: skip
"""The ids of the paper's claims, in its order: of the abstract (A), of Section 1 (I), and of the other sections."""


class Untested(NamedTuple):
    """A claim of the paper that no experiment tests."""

    section: str
    sentence: str
    answer: str
    reason: str


EXACT, NOT_HERE, NOT_RUN = "exact", "not tested here", "not run"

UNTESTED = {
    "A6": Untested(
        "Abstract",
        "An ensemble exceeds the accuracy of human raters on ImageNet, with 4.9% top-5 error.",
        NOT_HERE,
        "It takes ImageNet; what an ensemble gains relative to one network is claim 4.2.3.",
    ),
    "I2": Untested(
        "Section 1",
        "Computing a mini-batch at once takes less time than as many examples one by one.",
        NOT_HERE,
        "It is of machines, not of batch norm; +benchmark has the time of a step by mini-batch size, in growth.csv.",
    ),
    "I8": Untested(
        "Section 1",
        "What makes training and test distributions alike helps the layers inside of a network, too.",
        NOT_HERE,
        "It is an argument by analogy, which predicts no number.",
    ),
    "3.1c": Untested(
        "Section 3.1",
        "At inference the output depends on the example alone, and deterministically.",
        EXACT,
        "tests/test_batchnorm.py::test_inference_takes_each_example_alone",
    ),
    "5.b": Untested(
        "Section 5",
        "With two parameters per activation, γ and β, the transform can give back the identity.",
        EXACT,
        "tests/test_batchnorm.py::test_the_right_gamma_and_beta_give_back_the_identity",
    ),
    "5.c": Untested(
        "Section 5",
        "In recurrent networks, batch norm may help gradients to propagate still more.",
        NOT_HERE,
        "There are no recurrent networks here.",
    ),
}
"""The claims that no experiment tests: an exact property is shown by the unit test that is named."""

BEGIN, END = "<!-- claims: python -m bnrepro +claims writes this table -->", "<!-- end of claims -->"
"""The lines of README.md between which the table stands."""


COLUMNS = (
    *("id", "section", "claim", "verdict", "of", *Estimate._fields, "held"),
    *("criterion", "paper", "scale", "command", "figure"),
)
"""The columns of the ledger. The estimate is that of the first finding, ``of`` says what is estimated, ``held`` how
many findings meet the criterion, and of how many no part of the interval does. The scale is that of the reference data;
the figure lies in their folder."""


def ledger(verdicts: Path | None = None) -> pd.DataFrame:
    """Return a row for each claim of the paper, in its order, and after these for each that is not the paper's own.

    Args:
        verdicts: where a folder for each sweep has what was found in its reference data; None for beside these.
    """
    names = sorted(path.stem for path in places.CONF.glob("sweep/*.yaml"))
    claimed = {claim.id: _row(name, claim, verdicts or places.REFERENCE) for name in names for claim in _claims(name)}
    untested = {
        each: {"id": each, "section": section, "claim": sentence, "verdict": answer, "of": reason}
        for each, (section, sentence, answer, reason) in UNTESTED.items()
    }
    known = untested | claimed
    ids = [*(each for each in LEDGER if each in known), *(each for each in claimed if each not in LEDGER)]
    blank = dict.fromkeys(COLUMNS, "") | NOTHING._asdict()
    return pd.DataFrame([blank | known[each] for each in ids]).astype(dict.fromkeys(Estimate._fields, float))


def _claims(name: str) -> Sequence[Claim]:
    experiment = import_experiment(name)
    return experiment.claims if experiment else ()


def _row(name: str, claim: Claim, verdicts: Path) -> dict[str, Any]:
    """Return the row of a claim of an experiment, with what its reference data say if there are any."""
    row = {"id": claim.id, "section": claim.section, "claim": claim.sentence, "criterion": claim.criterion}
    row |= {"paper": claim.paper, "verdict": NOT_RUN, "command": f"python -m bnrepro +sweep={name}"}
    with suppress(FileNotFoundError):
        told = json.loads((verdicts / name / "verdict.json").read_text("utf-8"))
        for (verdict,) in (each["verdicts"] for each in told["claims"] if each["id"] == claim.id):
            findings = verdict["findings"]
            row["verdict"] = verdict["answer"]
            row |= {key: value for key, value in findings[0].items() if key in COLUMNS} if findings else {}
            held = Counter(finding["holds"] for finding in findings)
            row["held"] = f"holds in {held[True]} of {len(findings)} findings, fails in {held[False]}"
            runs = pd.read_csv(
                places.REFERENCE / name / "runs.csv.xz",
                usecols=lambda c: c in ("dataset", "steps", "seed", "seconds"),
            )
            data, (least, most) = ", ".join(sorted(set(runs["dataset"]))), (runs["steps"].min(), runs["steps"].max())
            steps = f"{most:,}" if least == most else f"{least:,} to {most:,}"
            time = describe(runs)["time"]
            row["scale"] = f"{data}, {steps} steps, {runs['seed'].nunique()} seeds; {time} on one core"
            row["command"] = f"python -m bnrepro +sweep={name} dataset={data}"
            row["figure"] = f"{name}/{claim.figure}.png"
    return row


def spell_row(row: pd.Series) -> str:
    """Write what was found: the estimate, or the reason why there is none, and how many findings hold of several."""
    value, low, high, n, bound = row[[*Estimate._fields]]
    found = [row["of"]] if row["of"] else []
    if not math.isnan(value):
        found = [f"{row['of']}: {spell(Estimate(value, low, high, int(n), int(bound)), row['of'])}"]
    if row["held"] and " of 1 " not in row["held"]:
        found.append(row["held"])
    return "; ".join(found)


def count(rows: pd.DataFrame) -> str:
    """Write how many of the paper's claims have each verdict."""
    own = rows[rows["id"].isin(LEDGER)]
    counts = Counter(own["verdict"]).most_common()
    return f"{len(own)} claims of the paper; {', '.join(f'{verdict}: {number}' for verdict, number in counts)}."


def by_verdict(rows: pd.DataFrame) -> str:
    """Write a table in Markdown with the ids of all claims by their verdict, those of the paper's own counted."""
    grouped = rows.groupby("verdict", sort=False)["id"].agg(list)
    counts = Counter(rows.loc[rows["id"].isin(LEDGER), "verdict"])
    lines = [("verdict", "of the paper's claims", "all claims"), ("---",) * 3]
    lines += [
        (verdict, f"{counts[verdict]} of {counts.total()}", ", ".join(grouped[verdict]))
        for verdict in sorted(grouped.index, key=lambda verdict: -counts[verdict])
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def spell_ledger(rows: pd.DataFrame) -> str:
    """Write the ledger for the screen, in 100 columns."""
    widths = (17, 38, 16, 23)
    titles = ("claim", "what it says", "verdict", "estimate")
    shown = [titles] + [
        (f"{row['id']} ({row['section']})", row["claim"], row["verdict"], spell_row(row)) for _, row in rows.iterrows()
    ]
    lines = []
    for cells in shown:
        wrapped = [textwrap.wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
        for parts in [*itertools.zip_longest(*wrapped, fillvalue=""), ()]:
            lines += ["  ".join(map(str.ljust, parts, widths)).rstrip()]
    return "\n".join([*lines, count(rows)])


def to_markdown(rows: pd.DataFrame, folder: str, columns: Sequence[str]) -> str:
    """Write the ledger as a table in Markdown, with links to figures in ``folder``, that of the reference data."""
    whole = rows.assign(
        claim="**" + rows["id"] + "** (" + rows["section"] + ") " + rows["claim"],
        estimate=[spell_row(row) for _, row in rows.iterrows()],
        command=["`" + each + "`" if each else "" for each in rows["command"]],
        figure=[f"[figure]({folder}{each})" if each else "" for each in rows["figure"]],
    )
    cells = [["claim", *columns], ["---"] * (len(columns) + 1), *whole[["claim", *columns]].to_numpy().tolist()]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in cells)


def write_ledger(rows: pd.DataFrame, checkout: Path, stale: Sequence[str]) -> Iterator[Path]:
    """Write the ledger into a checkout: as CSV, and as a page of its own.

    What is of the abstract, or of Figure 1, also goes into README.md, between its marks, and of all claims the verdict.

    Args:
        rows: of the ledger.
        checkout: its folder.
        stale: the sweeps whose reference data are stale, which the page says.
    """
    folder, readme = checkout / "results" / "reference", checkout / "README.md"
    page = f"# Claims\n\n{count(rows)} Written by `python -m bnrepro +claims`.\n\n"
    page += f"Of [stale reference data](README.md), which other code computed: {', '.join(stale)}.\n\n" if stale else ""
    page += to_markdown(rows, "", ["verdict", "estimate", "criterion", "paper", "scale", "command", "figure"])
    texts = {folder / "claims.csv": rows.to_csv(index=False, float_format=f"%{DIGITS}"), folder / "claims.md": page}
    before, begin, rest = readme.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        headlines = rows[rows["section"].str.contains("Abstract|Figure 1")]
        table = to_markdown(headlines, "results/reference/", ["verdict", "estimate", "figure"])
        texts[readme] = f"{before}{BEGIN}\n{table}\n{by_verdict(rows)}{END}{after}"
    for path, text in texts.items():
        with atomic_write(path) as partial:
            partial.write_text(text, "utf-8")
        yield path
