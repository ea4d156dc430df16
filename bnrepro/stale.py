"""Tell which reference data are stale: of other code than the tree's, or of other runs than their sweep now asks for.

Data of other code are as good as new once a verification has shown that the tree's code gives the same bits. It keeps
that in ``results/reference/NAME/verified.csv``, so that a change of the code that changes no number costs the training
of a sample, and not of everything.
"""

from __future__ import annotations

import datetime
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from . import places
from .composition import compose
from .config import Compute, RunConfig, Settings
from .errors import InputError
from .experiment import import_experiment
from .provenance import environment
from .reference import keep, known, load_reference, read_table, read_tables, settings, write_tables
from .store import Results
from .sweeping import expand
from .verify import DIFFERS, EQUAL, compare, recognise, repeat

CURRENT, VERIFIED, STALE = "current", "verified", "stale"

VERIFIED_COLUMNS = ("code", "of", "runs", "date", "cpu")
"""What stands in ``verified.csv``: the code of the tree, the code of the reference data, and how many runs were equal,
when and where."""

BEGIN, END = "<!-- folders: python -m bnrepro +claims writes this table -->", "<!-- end of folders -->"
"""The lines of ``results/reference/README.md`` between which the table of its folders stands."""


def full_scale() -> dict[str, list[str]]:
    """Return the overrides with which each sweep is the reference, in the order in which they are made."""
    found: Any = OmegaConf.to_container(OmegaConf.load(places.CONF / "reference.yaml"))
    return {str(name): list(overrides) for name, overrides in found.items()}


def command(name: str) -> str:
    """Write the command that trains the runs of which reference data are made."""
    return shlex.join(["python", "-m", "bnrepro", f"+sweep={name}", *full_scale().get(name, [])])


class Standing(NamedTuple):
    """The answer to whether reference data are those of the tree's code."""

    state: str
    """CURRENT, VERIFIED or STALE."""
    reason: str
    """Why they are stale, in words; when they were verified, if they were."""


def standing(name: str, runs: pd.DataFrame | None = None) -> Standing:
    """Tell whether reference data are current, verified or stale, and why.

    Args:
        name: of the sweep.
        runs: their table ``runs``, if it is at hand.
    """
    runs = read_table(places.REFERENCE / name, "runs") if runs is None else runs
    one_of_a_cell = {str((code, _without_seed(found))): (i, code, found) for i, code, found in settings(runs)}
    recognised, lost = recognise(one_of_a_cell.values())
    verified = _verified(name)
    pairs = {(run.code, code) for run, code in recognised}
    unverified = {pair for pair in pairs if pair[0] != pair[1]} - {*zip(verified["code"], verified["of"], strict=True)}
    if lost or unverified:
        codes = sorted({code or "not known" for _, code in unverified} | ({"not known"} if lost else set()))
        return Standing(STALE, f"computed by other code ({', '.join(codes)})")
    if missing := {run.run_id for run in _asked_for(name)} - {*runs["run_id"]}:
        return Standing(STALE, f"{len(missing)} of the runs of its sweep are missing")
    ours = verified[[pair in pairs for pair in zip(verified["code"], verified["of"], strict=True)]]
    told = ""
    if len(ours):
        told = f"{ours['runs'].astype(int).sum()} runs verified {ours['date'].max()} on {ours['cpu'].iloc[-1]}"
    return Standing(CURRENT if all(code == of for code, of in pairs) else VERIFIED, told)


def _without_seed(found: Mapping[str, Any]) -> str:
    return str({key: value for key, value in found.items() if key != "seed"})


def _asked_for(name: str) -> list[RunConfig]:
    """Return the runs that the sweep has at full scale, but for those that it makes depend on others."""
    if name not in full_scale():
        return []
    parsed = Settings.parse(compose([f"sweep={name}", *full_scale()[name]]))
    return expand(parsed.run, *parsed.grids)


def _verified(name: str) -> pd.DataFrame:
    path = places.REFERENCE / name / "verified.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(VERIFIED_COLUMNS))
    return pd.read_csv(path, dtype=str)


def spell(name: str, found: Standing) -> str:
    """Write the standing of reference data in a sentence."""
    if found.state == STALE:
        return f"reference/{name} is stale: {found.reason}."
    return f"reference/{name} is {found.state}{f': {found.reason}' if found.reason else ''}."


def verify_reference(name: str, sample: int, compute: Compute, dataset: Mapping[str, Any]) -> bool:
    """Train a sample of the runs of reference data again, compare digests, and keep in a checkout that all were equal.

    The sample is spread evenly over cells. On other hardware, the measurements of the first steps are judged, as
    :func:`bnrepro.verify.verify` does.

    Args:
        name: of the sweep.
        sample: how many runs, or all if there are fewer.
        compute: where to train them.
        dataset: settings of a data set, which say where its files are.

    Returns:
        Whether all runs are equal, or within the tolerance on other hardware.

    Raises:
        InputError: if there are no such data or none that can be compared, or if the runs can't be trained here.
    """
    stored = load_reference(name)
    if "digest" not in stored.runs:
        raise InputError(f"reference/{name}: of code that kept no digests, so nothing to verify")
    found, left_out = recognise(settings(stored.runs), dataset)
    for reason, count in left_out.items():
        print(f"{count} runs are left out: {reason}", flush=True)
    if not found:
        raise InputError(f"reference/{name}: no run that the code in place can train, so nothing to verify")
    experiment = import_experiment(name)
    assert experiment

    def against(chosen: Sequence[RunConfig], here: Results) -> tuple[pd.DataFrame, Results]:
        part = stored.part(stored.runs["run_id"].isin([run.run_id for run in chosen]).tolist())
        with TemporaryDirectory(prefix="bnrepro-verify-") as folder:
            write_tables(keep(experiment, here), Path(folder))
            rounded = read_tables(Path(folder))
        one, other = (each.runs.set_index("run_id")["digest"] for each in (part, rounded))
        return compare(part, rounded, equal=one == other.reindex(one.index)), part

    table = repeat(f"reference/{name}", [run for run, _ in found], sample, compute, against)
    if places.CHECKOUT and set(table["verdict"]) == {EQUAL}:
        _keep_verified(name, Counter((run.code, code) for run, code in found if run.run_id in table.index))
    print(spell(name, standing(name, stored.runs)))
    return DIFFERS not in table["verdict"].array


def _keep_verified(name: str, equal: Mapping[tuple[str, str], int]) -> None:
    """Write down how many runs of each code were equal to those of the tree's; what was known of a pair gives way."""
    from .figures import atomic_write

    before = _verified(name)
    before = before[[pair not in equal for pair in zip(before["code"], before["of"], strict=True)]]
    today, cpu = datetime.datetime.now(datetime.UTC).date().isoformat(), environment()["cpu"]
    rows = [(code, of, str(count), today, cpu) for (code, of), count in sorted(equal.items())]
    with atomic_write(places.REFERENCE / name / "verified.csv") as partial:
        pd.concat([before, pd.DataFrame(rows, columns=list(VERIFIED_COLUMNS))]).to_csv(partial, index=False)


def describe(runs: pd.DataFrame) -> dict[str, str]:
    """Say what reference data are of: their runs, the time of all on one core, where and when they were trained.

    Args:
        runs: their table ``runs``, which may lack what earlier versions did not keep.
    """

    def of(column: str) -> list[str]:
        return sorted({str(value) for value in runs.get(column, pd.Series(dtype=str)).dropna()})

    least, most = (f"{of_runs:,}" for of_runs in (runs["steps"].min(), runs["steps"].max()))
    steps = most if least == most else f"{least} to {most}"
    minutes = np.ceil(runs.get("seconds", pd.Series(dtype=float)).sum() / 60)
    machine = ", ".join([*(of("cpu") or ["CPU not known"]), *(f"kernel {kernel}" for kernel in of("blas_kernel"))])
    days = [day[:10] for day in of("finished")]
    return {
        "runs": f"{len(runs)} of {steps} steps, {', '.join(of('dataset'))}",
        "time": f"{minutes // 60:.0f} h {minutes % 60:.0f} min" if minutes >= 60 else f"{minutes:.0f} min",
        "engine": ", ".join(of("train.engine") or ["numpy"]),
        "machine": machine,
        "date": " to ".join(sorted({days[0], days[-1]})) if days else "not known",
    }


def standings() -> dict[str, Standing]:
    """Return the standing of all reference data there are, in the order in which they are made."""
    return {name: standing(name) for name in sorted(known(), key=[*full_scale(), *known()].index)}


def _table(found_of: Mapping[str, Standing]) -> str:
    """Write what reference data there are, and whether they are stale, as a table in Markdown."""
    rows = [("folder", "command", "runs", "time on one core", "engine and machine", "date", "code"), ("---",) * 7]
    for name, found in found_of.items():
        told = describe(read_table(places.REFERENCE / name, "runs"))
        code = found.state + (f": {found.reason}" if found.reason else "")
        machine = f"{told['engine']}; {told['machine']}"
        rows.append((f"`{name}`", f"`{command(name)}`", told["runs"], told["time"], machine, told["date"], code))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def write_table(checkout: Path, found_of: Mapping[str, Standing]) -> Iterator[Path]:
    """Write the table of reference data, whose standing is given, into their page in a checkout, between its marks."""
    from .figures import atomic_write

    page = checkout / "results" / "reference" / "README.md"
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        text = f"{before}{BEGIN}\n{_table(found_of)}{END}{after}"
        with atomic_write(page) as partial:
            partial.write_text(text, "utf-8")
        yield page
