"""Show what an experiment finds in the results of its sweep: on the screen tables and verdicts, in files all of it."""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from .analysis import Estimate, Finding, Tables, facets, judge
from .composition import compose
from .config import Figures, RunConfig, Settings
from .errors import InputError
from .experiment import Claim, Experiment, import_experiment
from .provenance import digest
from .settings import describe, flatten, to_json, to_override
from .store import Results, Store
from .sweeping import expand

WIDTH = 100
"""The width of tables on the screen, in characters."""

DIGITS = ".6g"
"""The format of numbers in files: no difference between machines in the last bits shows."""

MOST_DECIMALS = 6

ACCURACY_DECIMALS = 4
"""The decimals of every accuracy, so that those of one table can be compared."""

HELD = {True: "holds", False: "does not hold", None: "can't be told"}
"""The words for whether a finding meets its criterion."""

BOUNDS = {1: "> ", -1: "< ", 0: ""}


def spell(found: Estimate, of: str = "") -> str:
    """Write an estimate with the digits that its interval makes sensible, 2 to 4 of them: ``2.18 [1.90, 2.51]``.

    The interval is in square brackets, an end that is not known is left out; > and < mark a bound.

    Args:
        found: the estimate.
        of: what is estimated; an accuracy has ``ACCURACY_DECIMALS``.
    """
    value, low, high, _, bound = found
    if math.isnan(value):
        return ""
    reaches = [abs(end - value) for end in (low, high) if math.isfinite(end) and not math.isclose(end, value)]
    if re.search("accurac(y|ies)", of):
        digits = ACCURACY_DECIMALS
    elif reaches:
        first = math.floor(math.log10(abs(value) if abs(value) > min(reaches) / 10 else min(reaches)))
        digits = min(max(math.ceil(-math.log10(min(reaches) / 3)), 1 - first), 3 - first)
    else:
        digits = -int(Decimal(f"{value:.3g}").as_tuple().exponent)

    def number(x: float) -> str:
        if math.isnan(x):
            return ""
        return f"{x:.1e}" if digits > MOST_DECIMALS else f"{round(x, digits):,.{max(0, digits)}f}"

    interval = f" [{number(low)}, {number(high)}]" if not (math.isnan(low) and math.isnan(high)) else ""
    return f"{BOUNDS[bound]}{number(value)}{interval}"


def spell_table(table: pd.DataFrame) -> str:
    """Write a table of estimates with a column for each quantity, the last level of its index.

    Where that is wider than ``WIDTH``, columns go on below.
    """
    most = table["n"].max()
    cells = [
        spell(each, of) + f" (n = {each.n})" * bool(0 < each.n < most)
        for of, each in zip(table.index.get_level_values("quantity"), _estimates(table), strict=True)
    ]
    rows: dict[Any, dict[str, str]] = {}
    for (*key, quantity), cell in zip(table.index.tolist(), cells, strict=True):
        rows.setdefault(tuple(f"{k:g}" if isinstance(k, float) else str(k) for k in key), {})[quantity] = cell
    wide = pd.DataFrame(list(rows.values())).fillna("")
    if keys := table.index.names[:-1]:
        wide.index = pd.MultiIndex.from_tuples(list(rows), names=keys)
    return str(wide.to_string(line_width=WIDTH - 2, index=bool(keys)))


def _estimates(table: pd.DataFrame) -> Iterator[Estimate]:
    return (Estimate(*row) for row in table.itertuples(index=False))


def figure_folder(sweep_folder: Path, settings: Settings, overrides: Sequence[str]) -> Path:
    """Return the folder of a sweep's figures: that of the sweep for the sweep as it stands, else one inside.

    The name of one inside is a digest of the grids' runs and how they are refined; however they are asked for, it is
    the same, and whatever came of them.

    Args:
        sweep_folder: folder of the store, of the name of the sweep.
        settings: of the sweep.
        overrides: with which they were composed, those of Hydra itself among them.
    """
    of_hydra = [override for override in overrides if override.lstrip("+~").startswith("hydra.")]
    usual = Settings.parse(compose([f"sweep={sweep_folder.name}", *of_hydra]))
    asked, as_it_stands = _asked(settings), _asked(usual)
    return sweep_folder if asked == as_it_stands else sweep_folder / digest(" ".join(asked))[:8]


def _asked(settings: Settings) -> list[str]:
    """Return what tells one set of runs from another: the ids of the grids' runs, and how these are refined, if so."""
    refine = [to_json(describe(settings.refine, defaults=True))] if settings.refine.key else []
    return sorted(run.run_id for run in expand(settings.run, *settings.grids)) + refine


def write_settings(runs: Sequence[RunConfig], folder: Path) -> Path:
    """Write ``settings.json``: the values that each setting has in the runs, a setting a line."""
    from .figures import atomic_write

    values: dict[str, dict[str, None]] = {}
    for run in runs:
        for key, value in flatten(run.to_dict()):
            values.setdefault(key, {})[json.dumps(value, ensure_ascii=False)] = None
    lines = ",\n".join(f" {json.dumps(key)}: [{', '.join(each)}]" for key, each in values.items())
    path = folder / "settings.json"
    with atomic_write(path) as partial:
        partial.write_text(f"{{\n{lines}\n}}\n", "utf-8")
    return path


def check(name: str, runs: Sequence[RunConfig], figures: Figures) -> None:
    """Refuse, before it is trained, a sweep that its experiment can't show, or not so.

    Raises:
        InputError: naming what is missing, or the style sheet that is not there.
    """
    if experiment := import_experiment(name):
        experiment.check(name, runs)
    check_look(figures)


def check_look(figures: Figures) -> None:
    """Refuse a style sheet that is not there.

    Raises:
        InputError: naming it.
    """
    from .figures import look

    with look(figures.width, figures.style):
        pass


def show(
    name: str,
    runs: Sequence[RunConfig],
    sweep_folder: Path,
    folder: Path,
    figures: Figures,
    command: str,
    *,
    quiet: bool = False,
) -> None:
    """Show the experiment from those of the runs that are stored, with a page of it all beside its figures.

    Args:
        name: of the sweep.
        runs: all runs of the sweep.
        sweep_folder: where they are stored.
        folder: for what is shown, as :func:`figure_folder` returns it.
        figures: how figures are drawn.
        command: what trains the runs that are missing.
        quiet: print nothing.

    Raises:
        InputError: if no run is stored, or the experiment can't be imported.
    """
    from . import report

    experiment = import_experiment(name)
    store = Store(sweep_folder)
    finished = store.finished()
    stored = [run for run in runs if (run.run_id, run.code) in finished]
    if not stored:
        raise InputError(f"{store.path}: none of the runs of {name} is stored")
    shown = Presented(f"no experiments/{name}.py, so no table and no figure; the runs are in {sweep_folder}", [])
    if experiment:
        shown = present(experiment, store.load(stored), folder, figures, expected=len(runs))
        if folder != sweep_folder:
            shown.paths.append(write_settings(runs, folder))
    page = report.page_of(name, command, store.load(runs), len(runs), shown.paths, folder)
    if not quiet:
        print("\n".join([shown.told, *(str(relative(path)) for path in [*shown.paths, page])]))


class Presented(NamedTuple):
    """What there is to see of an experiment."""

    told: str
    """Tables and verdicts, to read on the screen."""
    paths: list[Path]
    """The files that were written."""


def present(experiment: Experiment, results: Results, folder: Path, figures: Figures, expected: int) -> Presented:
    """Analyse results, and write tables, figures and verdicts.

    Args:
        experiment: to be shown.
        results: of all runs that there are.
        folder: for the files.
        figures: how figures are drawn.
        expected: the number of runs that a whole sweep has.
    """
    from . import figures as parts

    count = len(results.runs)
    note = "" if count == expected else f"{count} of {expected} runs"
    found = [(facet, experiment.analyse(part)) for facet, part in facets(results, experiment.arms)]
    lines, paths = [], []
    verdicts: list[list[dict[str, Any]]] = [[] for _ in experiment.claims]
    for facet, tables in found:
        title = ", ".join(f"{key}={to_override(value)}" for key, value in facet.items())
        notes = "; ".join(filter(None, [note, title]))
        if title:
            lines += [f"== {title} =="]
        for name, table in tables.items():
            if "quantity" in table.index.names and len(table):
                lines += [f"{name}:", spell_table(table), ""]
        with parts.look(figures.width, figures.style, notes):
            drawn = {}
            for stem, figure in experiment.draw(tables).items():
                file = re.sub(r"[^\w.,=\[\]+-]", "_", ",".join(filter(None, [stem, title.replace(", ", ",")])))
                drawn[file] = figure
            paths += parts.save_all(drawn, folder, figures.formats)
        for claim, of_claim in zip(experiment.claims, verdicts, strict=True):
            findings = claim.findings(tables)
            of_claim.append({"facet": facet, "answer": judge(findings), "findings": [_as_dict(f) for f in findings]})
            lines += [*_spell_verdict(claim, findings, notes), ""]
    for name, table in _put_together(found).items():
        path = folder / (f"{name}.csv" if "quantity" in table.index.names else f"drawn/{name}.csv.xz")
        with parts.atomic_write(path) as partial:
            table.to_csv(partial, float_format=f"%{DIGITS}", compression="xz" if path.suffix == ".xz" else None)
        paths.append(path)
    if experiment.claims:
        paths.append(folder / "verdict.json")
        with parts.atomic_write(paths[-1]) as partial:
            claims = [
                {"id": claim.id, "sentence": claim.sentence, "criterion": claim.criterion, "verdicts": of_claim}
                for claim, of_claim in zip(experiment.claims, verdicts, strict=True)
            ]
            told = {"runs": count, "of": expected, "claims": claims}
            partial.write_text(json.dumps(told, indent=1, ensure_ascii=False, default=str) + "\n", "utf-8")
    return Presented("\n".join(lines), paths)


def draw_run(results: Results, folder: Path, figures: Figures) -> list[Path]:
    """Draw the curve of one run: RUN_ID.png and so on, its loss and its test accuracy against steps.

    Args:
        results: of the run, which has not failed.
        folder: for the files.
        figures: how figures are drawn.
    """
    from . import figures as parts

    (run,) = results.runs.to_dict("records")
    with parts.look(figures.width, figures.style):
        return parts.save_all({run["run_id"]: parts.curve_of(results)}, folder, figures.formats)


def _as_dict(finding: Finding) -> dict[str, Any]:
    value, low, high, n, bound = finding.estimate
    ends = {"value": value, "low": low, "high": high}
    numbers = {key: None if math.isnan(x) else float(f"{x:{DIGITS}}") for key, x in ends.items()}
    return {"of": finding.of, **numbers, "n": n, "bound": bound, "holds": finding.holds}


def _spell_verdict(claim: Claim, findings: Sequence[Finding], note: str) -> list[str]:
    said = [f"claim {claim.id} ({claim.section}): {claim.sentence}", f"criterion: {claim.criterion}"]
    said += [f"- {f.of}: {spell(f.estimate, f.of) or 'not measured'}, {HELD[f.holds]}" for f in findings]
    said.append(f"verdict{f' ({note})' if note else ''}: {judge(findings)}")
    return [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in said]


def _put_together(found: Sequence[tuple[dict[str, Any], Tables]]) -> Tables:
    """Return each table with those of all facets, whose settings are the first levels of its index."""
    if len(found) == 1:
        return found[0][1]
    names = dict.fromkeys(name for _, tables in found for name in tables)
    return {
        name: pd.concat(
            {tuple(map(to_override, facet.values())): tables[name] for facet, tables in found if name in tables},
            names=list(found[0][0]),
        )
        for name in names
    }


def relative(path: Path) -> Path:
    """Return a path as it is written from the current folder."""
    with suppress(ValueError):  # on another drive of Windows it stays absolute
        return Path(os.path.relpath(path))
    return path
