"""Make a page of what an experiment shows: claims, figures, every run, tables and provenance, in one file.

The page asks for nothing but its own file, and is the same to the byte for the same results. Without scripts its
figures and tables remain.
"""

from __future__ import annotations

import ast
import base64
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from . import places
from .analysis import Estimate, levels
from .config import Figures
from .experiment import import_experiment
from .presenting import HELD, present, spell
from .reference import known, load_reference
from .settings import to_override
from .store import Results, hashable, is_setting
from .sweeping import headline, progress_bar

FILE = "report.html"

PAGE = places.PACKAGE / "page"
"""The folder of the template, and of the scripts in the order of ``SCRIPTS``."""
SCRIPTS = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js", "view.js")

FROM = ("code", "git_commit", "bnrepro", "numpy", "python", "numba", "blas", "blas_kernel", "cpu", "host", "note")
"""The columns of table ``runs`` that say where a run comes from, as far as there are any."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a page has of one sweep; tables, figures and verdicts are read from the files that show them."""

    name: str
    command: str
    """The command that trains what is missing of it, and shows it."""
    results: Results
    expected: int
    """The number of runs that a whole sweep has."""
    paths: Sequence[Path] = ()
    """The files that show it."""
    reference: Results | None = None
    """The reference data of this sweep, if there are any and these results are others."""
    reference_verdicts: dict[str, str] = field(default_factory=dict)
    """What the reference data say of each claim."""
    standing: str = ""
    """Whether these, if they are reference data, are those of the tree's code."""

    @property
    def question(self) -> str:
        """Return the first sentence of the experiment's docstring."""
        path = places.find_experiment(self.name)
        text = ast.get_docstring(ast.parse(path.read_bytes())) if path else ""
        return " ".join((text or "").partition("\n\n")[0].split())

    @property
    def counts(self) -> str:
        """Say how many runs there are, and how they ended."""
        ended = self.results.runs["status"].value_counts()
        found = [f"{ended[status]} {status}" for status in ("done", "diverged", "failed") if status in ended]
        missing = self.expected - len(self.results.runs)
        found += [f"{missing} missing"] * (missing > 0)
        return f"{self.expected} runs: {', '.join(found)}"

    @property
    def claims(self) -> list[dict[str, Any]]:
        """Return the claims of ``verdict.json``, with estimates as text."""
        file = next((path for path in self.paths if path.name == "verdict.json"), None)
        claims: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))["claims"] if file else []
        for claim in claims:
            for verdict in claim["verdicts"]:
                verdict["facet"] = ", ".join(f"{k}={to_override(v)}" for k, v in verdict["facet"].items())
                there = self.reference_verdicts.get(claim["id"])
                verdict["reference"] = there if there != verdict["answer"] else None
                for finding in verdict["findings"]:
                    value, low, high = (
                        math.nan if finding[k] is None else finding[k] for k in ("value", "low", "high")
                    )
                    found = Estimate(value, low, high, finding["n"], finding["bound"])
                    finding["estimate"] = spell(found, finding["of"]) or "not measured"
                    finding["holds"] = HELD[finding["holds"]]
        return claims

    @property
    def figures(self) -> list[dict[str, Any]]:
        """Return each figure that is an SVG or a PNG: its name, and the better of both as a part of a page."""
        drawn = {path.stem: path for suffix in (".png", ".svg") for path in self.paths if path.suffix == suffix}
        return [{"name": name, "image": _inline(path, f"{self.name}-{name}")} for name, path in drawn.items()]

    @property
    def tables(self) -> list[dict[str, Any]]:
        """Return the tables that are printed, with numbers as the screen has them, and the files themselves."""
        return [_table(path) for path in self.paths if path.suffix == ".csv"]

    @property
    def varying(self) -> list[str]:
        """Return the settings that vary, the seed last."""
        return sorted(self.results.varying, key=lambda name: name == "seed")

    @property
    def columns(self) -> list[str]:
        """Return the columns of the table of runs."""
        return ["run", "status", *self.varying, "test accuracy", "diverged at", "error"]

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Return the rows of the table of runs; what is sorted by, if that is not the text, beside it."""
        rows = []
        for run in self.results.runs.to_dict("records"):
            accuracy, at, error = run.get("test_accuracy"), run.get("diverged_at"), run.get("error")
            cells: list[tuple[str, str | None]] = [(run["run_id"], None), (run["status"], None)]
            cells += [(_text(run[setting]), None) for setting in self.varying]
            cells.append(("", "-1") if pd.isna(accuracy) else (f"{accuracy:.4f}", None))
            cells.append(("", "-1") if pd.isna(at) else (f"{at:.0f}", None))
            cells.append((headline(error) if isinstance(error, str) else "", None))
            rows.append({"id": run["run_id"], "cells": [{"text": text, "key": key} for text, key in cells]})
        return rows

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Return the test accuracy of each run at each step; reference data have it where it is analysed."""
        return self.results.table("curves").reindex(columns=["run_id", "step", "test_accuracy"]).dropna()

    @property
    def data(self) -> Any:
        """Return what the linked view draws, as JSON that may stand in a page."""
        from markupsafe import Markup

        runs, settings = self.results.runs, self.varying
        arms = [name for name in settings if name != "seed"]
        numbers = {s: len(_levels(runs[s])) * all(isinstance(value, int | float) for value in runs[s]) for s in arms}
        x = max(numbers, key=lambda s: numbers[s], default=None)
        kinds = [s for s in numbers if s != x]
        told: dict[str, Any] = {
            "values": {s: _levels(runs[s]) for s in settings},
            "x": x,
            "kind": "norm" if "norm" in kinds else kinds[0] if kinds else x,
            "runs": [
                {
                    "id": run["run_id"],
                    "status": run["status"],
                    "accuracy": None if pd.isna(run.get("test_accuracy")) else round(run["test_accuracy"], 4),
                    "settings": {s: _text(run[s]) for s in settings},
                }
                for run in runs.to_dict("records")
            ],
            "curves": {run_id: [] for run_id in runs["run_id"]}
            | {
                str(run_id): [
                    [int(step), round(float(accuracy), 4)]
                    for step, accuracy in zip(c["step"], c["test_accuracy"], strict=True)
                ]
                for run_id, c in self.curves.groupby("run_id")
            },
        }
        return Markup(json.dumps(told, separators=(",", ":")).replace("<", "\\u003c"))

    @property
    def provenance(self) -> list[tuple[str, str]]:
        """Return what the runs were computed by, where, and how long it took."""
        runs = self.results.runs
        found = [(name, _several(runs[name])) for name in FROM if name in runs and runs[name].notna().any()]
        if "finished" in runs and runs["finished"].notna().any():
            found.insert(0, ("finished", _several(runs["finished"].dropna().str[:10].sort_values())))
        if self.standing:
            found.insert(0, ("reference data", self.standing))
        return (
            [*found, ("seconds of training, in all", f"{runs['seconds'].sum():,.0f}")] if "seconds" in runs else found
        )

    @property
    def differences(self) -> list[tuple[str, str, str]]:
        """Return the settings, and the code, that have other values in the reference data."""
        if self.reference is None:
            return []
        here, there = self.results.runs, self.reference.runs
        names = [*filter(is_setting, dict.fromkeys([*here, *there])), "code"]
        told = [(name, *(_several(runs[name]) if name in runs else "" for runs in (here, there))) for name in names]
        return [(name, one, other) for name, one, other in told if one != other]


def page_of(name: str, command: str, results: Results, expected: int, paths: Sequence[Path], folder: Path) -> Path:
    """Write the page of a sweep beside its figures, with what differs from its reference data, if there are any.

    Args:
        name: of the sweep.
        command: what trains the runs that are missing.
        results: of the runs that there are.
        expected: the number of runs that a whole sweep has.
        paths: the files that show it.
        folder: for the page.
    """
    there, verdicts = None, dict[str, str]()
    if name in known():
        there = load_reference(name)
        file = places.REFERENCE / name / "verdict.json"
        if file.exists():  # in a checkout
            claims = json.loads(file.read_text("utf-8"))["claims"]
            verdicts = {claim["id"]: "; ".join(verdict["answer"] for verdict in claim["verdicts"]) for claim in claims}
    part = Part(
        name=name,
        command=command,
        results=results,
        expected=expected,
        paths=paths,
        reference=there,
        reference_verdicts=verdicts,
    )
    return write(folder / FILE, name, [part])


def of_references(folder: Path, figures: Figures) -> Path:
    """Write a page of all reference data, with the claims of the paper before them, and return its path.

    Args:
        folder: for the page.
        figures: how figures are drawn; as SVG, whatever formats are said.
    """
    from .claims import count, ledger, spell_row
    from .stale import STALE, command, standings
    from .stale import spell as spell_standing

    parts, found = [], standings()
    with TemporaryDirectory(prefix="bnrepro-report-") as drawn, progress_bar(len(found), "sweep") as bar:
        for name, standing in found.items():
            bar.set_postfix_str(name)
            results, experiment = load_reference(name), import_experiment(name)
            assert experiment
            shown = replace(figures, formats=["svg"])
            _, paths = present(experiment, results, Path(drawn, name), shown, expected=len(results.runs))
            parts.append(
                Part(
                    name=name,
                    command=command(name),
                    results=results,
                    expected=len(results.runs),
                    paths=paths,
                    standing=spell_standing(name, standing),
                )
            )
            bar.update()
        rows = ledger(Path(drawn))
        old = [name for name, (state, _) in found.items() if state == STALE]
        told = f" Of stale reference data, which other code computed: {', '.join(old)}." if old else ""
        counted = f"{count(rows)}{told}"
        claims = [
            dict(row, estimate=spell_row(row), sweep=row["figure"].partition("/")[0]) for _, row in rows.iterrows()
        ]
        return write(folder / FILE, "Batch normalization: claims and reference data", parts, claims, counted)


def write(
    path: Path, title: str, parts: Sequence[Part], claims: Sequence[Mapping[str, Any]] = (), counted: str = ""
) -> Path:
    """Write a page of some sweeps, and return its path.

    Args:
        path: of the page.
        title: of the page.
        parts: a sweep each.
        claims: rows of the ledger that stands before them.
        counted: how many of the claims have each verdict, and what is stale.
    """
    from .figures import atomic_write

    made_by = f"bnrepro {places.VERSION}"
    text = _template().render(
        title=title, made_by=made_by, parts=parts, claims=claims, counted=counted, scripts=_scripts()
    )
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8", newline="\n")
    return path


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(FILE)


@functools.cache
def _scripts() -> list[Any]:
    from markupsafe import Markup

    # Within a script, this alone would end it.
    return [Markup((PAGE / name).read_text("utf-8").replace("</script", "<\\/script")) for name in SCRIPTS]


def _inline(path: Path, prefix: str) -> Any:
    """Return a figure as a part of a page: with a title, and names that no other figure has."""
    from markupsafe import Markup, escape

    if path.suffix == ".png":
        return Markup(f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{_base64(path)}">')
    prefix = re.sub(r"\W", "_", prefix)
    svg = path.read_text("utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    begin, _, rest = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg).partition(">")
    named = (
        f'{begin} role="img" aria-labelledby="{prefix}-title"><title id="{prefix}-title">{escape(path.stem)}</title>'
    )
    return Markup(named + rest)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _table(path: Path) -> dict[str, Any]:
    """Return a table of estimates as text: a column for each level of its index, and the estimate."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"n": int, "bound": int})
    keys = [str(column) for column in table if column not in Estimate._fields]
    estimates = (Estimate(*row) for row in table[list(Estimate._fields)].itertuples(index=False))
    rows = [
        [*map(_text, row.values()), spell(each, str(row.get("quantity"))), str(each.n)]
        for row, each in zip(table[keys].to_dict("records"), estimates, strict=True)
    ]
    return {
        "name": path.stem,
        "columns": [*keys, "estimate [95% interval]", "n"],
        "rows": rows,
        "base64": _base64(path),
    }


def _levels(values: pd.Series) -> list[str]:
    """Return the values of a setting as text, in the order that tables have."""
    found = map(_text, levels(values.map(hashable).to_frame(), str(values.name)))
    return [*dict.fromkeys(found), *[""] * bool(values.isna().any())]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    return value if isinstance(value, str) else "" if value is None else to_override(value)


def _several(values: pd.Series) -> str:
    """Write the values that occur, in order, as far as a reader has the patience for them."""
    found = [*dict.fromkeys(map(_text, values.dropna()))]
    return ", ".join(found[:12]) + (f" and {len(found) - 12} more" if len(found) > 12 else "")
