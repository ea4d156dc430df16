"""Look after stored runs: list stores and runs, tell two runs apart, delete, merge and export runs."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from .composition import refuse, settings_given
from .config import COLUMNS, Runs
from .errors import InputError
from .presenting import WIDTH
from .settings import to_json, to_override
from .store import FILE, MEASURED, Results, Store, hashable, is_setting
from .sweeping import headline
from .verify import recognise

ALL = "all"
"""The name that stands for all stores of a folder."""

ACTIONS = ("compare", "delete", "merge", "export")

SHORTEST = 4
"""The characters that are shown of an id or a code, if they tell it from all others."""

NUMBER = re.compile(r"(?<=[ \[])-?\d[\d.e+-]*(?=[],}])")
"""The numbers in JSON, which name no code."""

LONGEST = 32
"""The characters of a cell at most."""

MOST_SHOWN = 20
"""The runs that are listed at most before they are deleted, and the values in a message."""


def look_after(asked: Runs, results_dir: Path, overrides: Sequence[str]) -> None:
    """List the stores, or the runs of one, or do with its runs what is asked.

    Args:
        asked: what is to be done.
        results_dir: folder of the stores.
        overrides: with which it was asked for.

    Raises:
        InputError: if it can't be done, or something that was given has no effect.
    """
    given = [key for key in ACTIONS if getattr(asked, key)]
    if asked.store == ALL:
        refuse(overrides, [f"runs.{key}" for key in (*ACTIONS, "where", "table", "yes")], "only with +runs=NAME")
        list_stores(results_dir)
        return
    if len(given) > 1:
        refuse(overrides, [f"runs.{given[0]}"], f"not together with runs.{given[1]}")
    if asked.compare or asked.merge is not None:
        refuse(overrides, ["runs.where"], f"has no effect on runs.{given[0]}")
    if asked.compare and len({*asked.compare}) != 2:
        raise InputError(f"runs.compare={','.join(asked.compare)}: must be the ids of two runs: ID,ID")
    if asked.export is not None and not asked.export.endswith((".csv", ".parquet")):
        raise InputError(f"runs.export={asked.export}: must end in .csv or .parquet")
    if asked.export is None:
        refuse(overrides, ["runs.table"], "only with runs.export=FILE")
    if asked.delete is None and asked.export is None:
        refuse(overrides, ["runs.yes"], "only with runs.delete or runs.export")
    folder = results_dir / str(asked.store)
    if asked.merge is not None:
        merge(folder, asked.merge)
        return
    if not (folder / FILE).is_file():
        known = ", ".join(path.name for path in _stores(results_dir))
        raise InputError(
            f"runs.store={asked.store}: "
            + (f"must be one of {known}, which {results_dir} has" if known else f"no run is stored in {results_dir}")
        )
    store = Store(folder)
    runs = identified(store)
    if asked.compare:
        compare(store, runs, asked.compare)
        return
    chosen = select(runs, asked.where)
    if asked.delete is not None:
        delete(store, chosen, asked.delete, yes=asked.yes)
    elif asked.export is not None:
        export(store, chosen, asked.export, asked.table, yes=asked.yes)
    else:
        stale, untold = stale_runs(store)
        others = [f"{len(stale)} of other code"] if stale else []
        print("; ".join([f"{store.path}: {_counted(runs)}", *others]))
        _print_untold("", untold)
        if asked.where:
            print(f"{' '.join(asked.where)}: {_counted(chosen)}")
        if len(chosen):
            print(spell_runs(chosen))


# Lists


def _stores(results_dir: Path) -> list[Path]:
    return sorted(path.parent for path in results_dir.glob(f"*/{FILE}"))


def list_stores(results_dir: Path) -> None:
    """Print a line for each store of a folder.

    Raises:
        InputError: if there is none; or, once the others are listed, if some can't be read.
    """
    rows, broken = {}, []
    for folder in _stores(results_dir):
        try:
            store = Store(folder)
            runs = store.all_runs()
            stale, _ = stale_runs(store)
        except InputError as error:
            broken.append(str(error))
            continue
        ended = runs["status"].value_counts()
        notes = runs.sort_values("run")["note"].dropna()
        file = store.path.stat()
        rows[folder.name] = {
            "runs": f"{len(runs)}",
            **{status: f"{ended.get(status, 0)}" for status in ("done", "diverged", "failed")},
            "other code": f"{len(stale)}",
            "last change, UTC": f"{datetime.fromtimestamp(file.st_mtime, UTC):%Y-%m-%d %H:%M}",
            "size": f"{tqdm.format_sizeof(file.st_size)}B",
            "last note": _cut(notes.iloc[-1]) if len(notes) else "",
        }
    if rows:
        print(_spell(pd.DataFrame.from_dict(rows, orient="index"), results_dir.name))
    if not rows and not broken:
        raise InputError(f"results_dir={results_dir}: no run is stored there")
    if broken:
        raise InputError("; ".join(broken))


def identified(store: Store) -> pd.DataFrame:
    """Load every run of a store, labelled by the beginning of its id, with that of its code where two have the id."""
    runs = store.all_runs()
    ids, codes = (runs[name].str[: _telling(runs[name])] for name in ("run_id", "code"))
    return runs.set_index(ids.where(~runs["run_id"].duplicated(keep=False), ids + "@" + codes).rename(None))


def _telling(texts: Iterable[str]) -> int:
    """Return how many first characters tell all texts apart."""
    apart = {*texts}
    longest = max(map(len, apart), default=SHORTEST)
    return next((n for n in range(SHORTEST, longest) if len({text[:n] for text in apart}) == len(apart)), longest)


def stale_runs(store: Store) -> tuple[set[tuple[str, str]], list[str]]:
    """Return ``(run_id, code)`` of the runs of other code than the tree's, and of which that can't be told, and why."""
    kinds: dict[tuple[str, str], list[tuple[str, str, dict[str, Any]]]] = {}
    for run_id, code, settings in store.settings(failed=True):
        kinds.setdefault((code, NUMBER.sub("", to_json(settings))), []).append((run_id, code, settings))
    found, _ = recognise(kind[0] for kind in kinds.values())
    is_stale = {(run.run_id, code): run.code != code for run, code in found}
    stale = {key[:2] for kind in kinds.values() for key in kind if is_stale.get(kind[0][:2])}
    others, lost = recognise(run for kind in kinds.values() if kind[0][:2] not in is_stale for run in kind)
    stale |= {(run.run_id, code) for run, code in others if run.code != code}
    return stale, [f"{count} of which no code is known here ({reason})" for reason, count in lost.items()]


def _print_untold(begin: str, untold: Sequence[str]) -> None:
    for line in untold:
        print(textwrap.fill(f"{begin}{line}", WIDTH, subsequent_indent="  "))


def _counted(runs: pd.DataFrame) -> str:
    return repr(Results(runs[["status"]], *[runs.iloc[:0]] * 3))


def _varying(runs: pd.DataFrame) -> list[str]:
    return Results(runs, *[runs.iloc[:0]] * 3).varying


def _several(values: pd.Series) -> bool:
    return len({*values.dropna()}) > 1


def spell_runs(runs: pd.DataFrame) -> str:
    """Write a table of runs, with the settings that vary alone; where it is too wide, columns go on below.

    A note that all have stands above.
    """
    shown = {name: runs[name].map(_text) for name in _varying(runs)}
    shown["status"] = runs["status"]
    shown["accuracy"] = runs["test_accuracy"].map("{:.4f}".format, na_action="ignore")
    shown["diverged at"] = runs["diverged_at"].map("{:.0f}".format, na_action="ignore")
    shown["seconds"] = runs["seconds"].map("{:.2f}".format, na_action="ignore")
    shown["finished, UTC"] = runs["finished"].str[:16].str.replace("T", " ")
    shown["error"] = runs["error"].map(lambda error: _cut(headline(error)), na_action="ignore")
    parts = {"code": runs["code"].str[: _telling(runs["code"])], "host": runs["host"], "cpu": runs["cpu"]}
    shown |= {name: part.map(_text) for name, part in parts.items() if _several(part)}
    above = ""
    if _several(runs["note"].fillna("")):
        shown["note"] = runs["note"].map(_cut, na_action="ignore")
    elif runs["note"].notna().any():
        above = textwrap.fill(f"note: {runs['note'].iloc[0]}", WIDTH, subsequent_indent="  ") + "\n"
    table = pd.DataFrame(shown).dropna(axis=1, how="all").fillna("")
    return above + _spell(table, "run")


def _spell(table: pd.DataFrame, corner: str) -> str:
    return str(table.rename_axis(columns=corner).to_string(line_width=WIDTH - 2))


def _text(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else _cut(to_override(value))


def _cut(text: str) -> str:
    line = " ".join(text.split())
    if len(line) <= LONGEST:
        return line
    return f"{line[: LONGEST - 1]}…" if " " in line else f"…{line[1 - LONGEST :]}"  # of an import path the end


# Choices of runs


def select(runs: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    """Return the runs that have every setting that is given, by KEY=VALUE; of two values of one key, either will do.

    Keys are those of settings, or columns of table ``runs``.

    Raises:
        InputError: if a key or a value is one that no run has.
    """
    having: dict[str, pd.Series] = {}
    for text in where:
        key, equals, raw = text.partition("=")
        if not equals:
            raise InputError(f"runs.where={text}: must be KEY=VALUE")
        for _, path, value in [*settings_given([text])] or [(text, (key,), raw)]:
            column = COLUMNS.get(".".join(path), ".".join(path))
            if column not in runs or column == "run":
                known = ", ".join([*_varying(runs), "status"])
                raise InputError(f"runs.where={text}: no run has that key; those that vary are {known}")
            has = pd.Series([_has(each, value, text) for each in runs[column].tolist()], index=runs.index, dtype=bool)
            if len(runs) and not has.any():
                found = [*dict.fromkeys(_text(each) or "null" for each in runs[column])]
                more = f" and {len(found) - MOST_SHOWN} more" * (len(found) > MOST_SHOWN)
                raise InputError(
                    f"runs.where={text}: no run has that value; {column} is {', '.join(found[:MOST_SHOWN])}{more}"
                )
            having[column] = having[column] | has if column in having else has
    for has in having.values():
        runs = runs[has.loc[runs.index]]
    return runs


def _has(stored: Any, value: Any, text: str) -> bool:
    if isinstance(stored, str):  # whatever its digits would be to Hydra
        return stored in (value, text.partition("=")[2])
    if stored is None or stored != stored:
        return value is None
    return isinstance(stored, bool) == isinstance(value, bool) and bool(stored == value)


def _find(runs: pd.DataFrame, text: str) -> Any:
    """Return the label of the run whose id, and code after @, begin so.

    Raises:
        InputError: if there is none, or more than one.
    """
    run_id, _, code = text.partition("@")
    found = runs.index[runs["run_id"].str.startswith(run_id) & runs["code"].str.startswith(code)]
    if len(found) == 0:
        raise InputError(f"runs.compare={text}: no run has an id that begins so")
    if len(found) > 1:
        more = f" and {len(found) - MOST_SHOWN} more" * (len(found) > MOST_SHOWN)
        raise InputError(f"runs.compare={text}: must be one of {', '.join(found[:MOST_SHOWN])}{more}")
    return found[0]


# Two runs


class Difference(NamedTuple):
    """The first difference between what was measured of two runs."""

    place: dict[str, int]
    column: str
    values: tuple[Any, Any]


def first_difference(one: pd.DataFrame, other: pd.DataFrame, keys: Sequence[str]) -> Difference | None:
    """Return where two runs differ first in what was measured of both, at the same steps.

    Args:
        one: what was measured of one of them.
        other: what was measured of the other.
        keys: what tells apart the rows of a run, the step first.
    """
    one, other = (
        table.drop(columns=["run", "run_id"]).set_index([*keys]).dropna(axis=1, how="all") for table in (one, other)
    )
    one, other = one.align(other, join="inner")
    unequal = (one != other) & (one.notna() | other.notna())
    if not unequal.to_numpy().any():
        return None
    row = int(unequal.any(axis=1).to_numpy().argmax())
    column = int(unequal.iloc[row].to_numpy().argmax())
    place = one.reset_index()[[*keys]].iloc[row]
    values = (one.iloc[row, column], other.iloc[row, column])
    return Difference({key: int(place[key]) for key in keys}, str(one.columns[column]), values)


def compare(store: Store, runs: pd.DataFrame, ids: Sequence[str]) -> None:
    """Print what differs between two runs, in table ``runs``, and where what was measured first differs.

    Raises:
        InputError: if an id is not that of one run.
    """
    labels = [_find(runs, text) for text in ids]
    if labels[0] == labels[1]:
        raise InputError(f"runs.compare={','.join(ids)}: must be the ids of two runs")
    pair = runs.loc[labels]
    texts = pair.drop(columns=["run", "run_id"]).map(_exact)
    settings = [*filter(is_setting, texts)]
    always = ["status", "test_accuracy"]
    names = [*settings, *(name for name in texts if name not in settings)]
    shown = texts[[name for name in names if name in always or _several(texts[name])]]
    print(_spell(shown.map(_cut).T, ""))
    for table, keys in MEASURED.items():
        if not keys:
            continue
        one, other = (store.measured(table, [run]) for run in pair["run"].tolist())
        if not len(one) and not len(other):
            continue
        counts = [part["step"].nunique() for part in (one, other)]
        steps = f"{counts[0]} steps" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]} steps"
        common = len({*one["step"]} & {*other["step"]})
        found = first_difference(one, other, keys)
        if found:
            place = ", ".join(f"{key} {number}" for key, number in found.place.items())
            first, second = map(_exact, found.values)
            print(f"{table} ({steps}) first differ at {place}, in {found.column}: {first} and {second}")
        elif common:
            print(f"{table} ({steps}) are equal to the bit in what was measured of both")
        else:
            print(f"{table} ({steps}) have no step in common")


def _exact(value: Any) -> str:
    """Write a value with all its digits."""
    if value is None or value != value:
        return ""
    return repr(float(value)) if isinstance(value, float) else to_override(value)


# Changes of stores


def delete(store: Store, runs: pd.DataFrame, which: str, *, yes: bool) -> None:
    """Delete those of the runs that failed, that are of other code than the tree's, or all, once that is confirmed.

    Raises:
        InputError: if it is not confirmed.
    """
    if which == "failed":
        runs = runs[runs["status"] == "failed"]
    elif which == "stale":
        stale, untold = stale_runs(store)
        keys = zip(runs["run_id"], runs["code"], strict=True)
        runs = runs[pd.Series([key in stale for key in keys], index=runs.index, dtype=bool)]
        _print_untold("left as they are: ", untold)
    print(f"{store.path}: to be deleted ({which}): {_counted(runs)}")
    if len(runs):
        print(spell_runs(runs.iloc[:MOST_SHOWN]))
        if len(runs) > MOST_SHOWN:
            print(f"and {len(runs) - MOST_SHOWN} more")
        if not yes:
            _confirm(f"runs.delete={which}", "delete them?")
    before = store.path.stat().st_size
    count = store.delete(runs["run"].tolist())
    told = f"{count} run{'s' * (count != 1)} deleted"
    try:
        if not store.give_back_space():
            told += "; a sweep is in training on this store; the same command gives the space back once it has ended"
        elif (freed := before - store.path.stat().st_size) > 0:
            told += f"; {tqdm.format_sizeof(freed)}B given back to the disk"
    except InputError as error:
        told += f"; the space is not given back to the disk yet: {error}"
    print(told)


def _confirm(key: str, question: str) -> None:
    """Ask on a terminal.

    Raises:
        InputError: if there is none, or the answer is not yes.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise InputError(f"{key}: asks on a terminal, and here is none; runs.yes=true says yes")
    print(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError(f"{key}: not confirmed, so nothing is deleted")


def merge(folder: Path, given: str) -> None:
    """Take the runs of another store into the one in this folder, which may be begun so, and say what came of them.

    Raises:
        InputError: if there is no such store, or one of both can't be read or written.
    """
    path = Path(given).expanduser()
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"runs.merge={given}: no such store of runs")
    if (folder / FILE).exists() and file.samefile(folder / FILE):
        raise InputError(f"runs.merge={given}: is the store into which runs would be merged")
    with TemporaryDirectory(prefix="bnrepro-merge-") as temporary:
        copy = Path(temporary) / FILE
        try:
            _copy(file, copy)
            Store(copy.parent)  # which brings it to this schema
            theirs = Store(copy.parent, create=True)  # which looks at every page
            there = theirs.all_runs()
        except (InputError, OSError, sqlite3.Error) as error:
            reason = str(error).removeprefix(f"{copy}: ").partition(";")[0]
            raise InputError(f"runs.merge={given}: {reason}") from error
        ours = Store(folder, create=True)
        merged = ours.merge(theirs)
        print(
            f"{ours.path}: {len(there)} runs of {given}: {merged.new} new, {merged.replaced} in place of failed ones, "
            f"{merged.kept} here already"
        )
        if merged.differing:
            _print_differing(ours, theirs, merged.differing)


def _copy(file: Path, copy: Path) -> None:
    """Copy a store as it is between two changes, and leave it as it is."""
    try:
        source = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
        with closing(source), closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        for suffix in ("", "-journal"):  # a write that was killed is undone in the copy
            shutil.copyfile(f"{file}{suffix}", f"{copy}{suffix}")


def _print_differing(ours: Store, theirs: Store, numbers: Sequence[tuple[int, int]]) -> None:
    """Print the runs of which training gave other numbers here than there, and where their curves first differ."""
    runs = identified(ours).reset_index(names="label").set_index("run")
    here, there = ([*column] for column in zip(*numbers, strict=True))
    curves = [
        dict(tuple(store.measured("curves", chosen).groupby("run")))
        for store, chosen in ((ours, here), (theirs, there))
    ]
    rows = {}
    for one, other in numbers:
        found = first_difference(curves[0][one], curves[1][other], MEASURED["curves"])
        told = {"curves differ from step": "", "in": "", "here": "", "there": ""}
        if found:
            told = dict(zip(told, [str(found.place["step"]), found.column, *map(_exact, found.values)], strict=True))
        rows[runs.loc[one, "label"]] = {name: _text(runs.loc[one, name]) for name in _varying(runs)} | told
    print(f"{len(numbers)} of these had other results there, to the bit; those here stay:")
    print(_spell(pd.DataFrame.from_dict(rows, orient="index"), "run"))


def _of_one_type(values: pd.Series) -> pd.Series:
    """Return a column as a file has it: lists, and values of several types, as text."""
    kinds = {*map(type, values.dropna())} if values.dtype == object else set()
    return values.map(hashable if len(kinds) == 1 else to_override, na_action="ignore") if kinds else values


def export(store: Store, runs: pd.DataFrame, file: str, table: str, *, yes: bool) -> None:
    """Write table ``runs``, or one of what was measured with the settings that vary, to a file.

    Raises:
        InputError: if the file is there and may not be written over, or it can't be written.
    """
    from .figures import atomic_write

    path = Path(file).expanduser()
    if path.exists() and not yes:
        raise InputError(f"runs.export={file}: is there already; runs.yes=true writes over it")
    if table == "runs":
        written = runs.drop(columns="run")
    else:
        names = [*_varying(runs), *["code"] * _several(runs["code"])]
        measured = store.measured(table, runs["run"].tolist())
        if measured.empty:
            raise InputError(f"runs.table={table}: nothing of it was measured in these runs")
        joined = measured.merge(runs[["run", *names]], on="run", validate="many_to_one")
        written = joined[["run_id", *names, *(name for name in measured if name not in ("run", "run_id"))]]
    written = written.assign(**{str(name): _of_one_type(written[name]) for name in written})
    try:
        with atomic_write(path) as partial:
            if path.suffix == ".csv":
                written.to_csv(partial, index=False)
            else:
                written.to_parquet(partial, index=False)
    except ImportError as error:
        raise InputError(f"runs.export={file}: needs pyarrow or fastparquet; python -m pip install pyarrow") from error
    except OSError as error:
        raise InputError(f"runs.export={file}: can't be written ({error.strerror})") from error
    print(f"{path}: {len(written)} rows of {len(written.columns)} columns")
