"""Tell whether what is stored is what training gives: a sample of the runs is trained again and compared bit for bit.

On another CPU or BLAS kernel sums are rounded in another order, and training amplifies the difference without bound.
Measured on three kernels of OpenBLAS (SkylakeX, Haswell, Nehalem) in 256 runs (MLP and CNN, digits and MNIST, with and
without batch norm, three optimisers, rates from 0.003 to 10), loss and gradient norm were at most 2e-7 of their size
apart before the first update, 3e-6 after it, 6e-4 after the second, and half after the twentieth. So where the hardware
is known to differ, ``JUDGED`` are judged up to ``LAST_JUDGED_STEP``, by ``TOLERANCE``, and nothing else is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from . import places
from .config import Compute, RunConfig
from .errors import InputError
from .provenance import environment, software
from .store import MEASURED, OUTCOME, Results, Store
from .sweeping import Progress, run_all

if TYPE_CHECKING:
    import pandas as pd

SETTINGS = ["activation", "norm", "lr", "seed"]
HARDWARE = ["machine", "simd", "blas", "blas_kernel"]
JUDGED = ["train_loss", "gradient_norm"]
LAST_JUDGED_STEP = 1
TOLERANCE = 1e-4
"""The relative difference that rounding on other hardware may make."""

EQUAL, CLOSE, DIFFERS = "equal", "within tolerance", "differs"


def verify(store_folder: Path, sample: int, compute: Compute, dataset: Mapping[str, Any]) -> bool:
    """Train a sample of the stored runs of the code in place again, and print how the results compare.

    Args:
        store_folder: folder of the store, which is not changed.
        sample: how many runs, or all if there are fewer.
        compute: where to train them.
        dataset: settings of a data set; a store does not say where its files are.

    Returns:
        Whether all runs are equal, or within the tolerance on other hardware.

    Raises:
        InputError: if the store can't be read or has no such run, or if they can't be trained here.
    """
    store = Store(store_folder)
    runs, left_out = recognise(store.settings(), dataset)
    ours = [run for run, code in runs if run.code == code]
    left_out += Counter(f"computed by other code ({code})" for run, code in runs if run.code != code)
    for reason, count in left_out.items():
        print(f"{count} finished runs are left out: {reason}", flush=True)
    if not ours:
        raise InputError(f"{store.path}: no finished run of the code in place, so nothing to verify")

    def against(chosen: Sequence[RunConfig], here: Results) -> tuple[pd.DataFrame, Results]:
        stored = store.load(chosen)
        return compare(stored, here), stored

    return DIFFERS not in repeat(store.path, ours, sample, compute, against)["verdict"].array


def recognise(
    stored: Iterable[tuple[str, str, dict[str, Any]]], dataset: Mapping[str, Any] | None = None
) -> tuple[list[tuple[RunConfig, str]], Counter[str]]:
    """Return stored runs with the code that computed each, and how many can't be told, by the reason why.

    Args:
        stored: the id, the code and the settings of each.
        dataset: settings of a data set, if its files are to be read; those of runs do not say where they are.
    """
    known: dict[str, Any] = {}
    for path in sorted(places.CONF.glob("dataset/*.yaml")):
        found: Any = OmegaConf.to_container(OmegaConf.load(path))
        known[found["name"]] = found
    if dataset:
        known[dataset["name"]] = dataset
    runs, left_out = list[tuple[RunConfig, str]](), Counter[str]()
    for run_id, code, settings in stored:
        own = settings.get("dataset")
        if isinstance(own, dict):
            files = known.get(str(own.get("name")), {})
            if files.get("verify") and own.get("sha256"):  # not of the published images, or the run would have none
                files = files | {"verify": False}
            own = files | own
        try:
            run = RunConfig.parse(settings | {"dataset": own})
        except InputError as error:
            left_out[str(error)] += 1
            continue
        if run.run_id == run_id:
            runs.append((run, code))
        else:
            left_out["its settings make another run by the code in place"] += 1
    return runs, left_out


def repeat(
    name: object,
    runs: Sequence[RunConfig],
    sample: int,
    compute: Compute,
    against: Callable[[Sequence[RunConfig], Results], tuple[pd.DataFrame, Results]],
) -> pd.DataFrame:
    """Train a sample of runs again, spread evenly over them in their order, and print how the results compare.

    Args:
        name: where the runs are kept.
        runs: all of which a sample is taken.
        sample: how many runs, or all if there are fewer.
        compute: where to train them.
        against: what compares results with what is kept of the runs, as :func:`compare` does, and returns that, too.

    Returns:
        The comparison.
    """
    count = min(sample, len(runs))
    chosen = [runs[i * len(runs) // count] for i in range(count)]
    print(f"{count} of {len(runs)} finished runs of {name} are trained again", flush=True)
    with TemporaryDirectory(prefix="bnrepro-verify-") as folder:
        again = Store(Path(folder), create=True)
        progress = Progress(count)
        run_all(chosen, again, compute, progress)
        here = again.load(chosen)
        table, stored = against(chosen, here)
    early = table["early difference"].map("{:.1g}".format)
    since = table["from step"].astype("string").fillna("-")
    print(table.assign(**{"early difference": early, "from step": since}).to_string())
    for result in progress.failed:
        print(f"{result.config.run_id} failed here: {str(result.error).strip().splitlines()[-1]}")
    unequal = table.index[table["verdict"] != EQUAL]
    if len(unequal):
        print(_provenance(stored, here, unequal).to_string())
    print(f"{count - len(unequal)} of {count} runs are equal, bit for bit")
    if CLOSE in table["verdict"].array:
        print(
            "Other hardware rounds sums in another order, and training amplifies that: there, only "
            f"{' and '.join(JUDGED)} are judged, up to step {LAST_JUDGED_STEP}, and may differ by {TOLERANCE:g} of "
            "their size (column early difference)"
        )
    return table


def compare(stored: Results, here: Results, equal: pd.Series | None = None) -> pd.DataFrame:
    """Return a row for each stored run, by its id: what differs, since which step, how much early on, the verdict.

    Args:
        stored: results of these runs.
        here: results of the same runs, trained again.
        equal: whether each run is equal, by its id, where not all that is needed to tell is in the tables.
    """
    import pandas as pd

    parts = []
    tables: dict[str, list[str]] = {"runs": [], **MEASURED}
    for name, keys in tables.items():
        columns = ["run_id", *OUTCOME] if name == "runs" else slice(None)
        one, other = (results.table(name).loc[:, columns].set_index(["run_id", *keys]) for results in (stored, here))
        missing = one.index.symmetric_difference(other.index)
        one, other = one.align(other)
        either = one.notna() | other.notna()
        unequal = (one != other) & either
        part = pd.DataFrame({"values": either.sum(axis=1), "differ": unequal.sum(axis=1)})
        part["differ"] = np.maximum(part["differ"], part.index.isin(missing))
        if name == "curves":
            part["early difference"] = _relative(one[JUDGED], other[JUDGED]).max(axis=1)
        parts.append(part.reset_index())
    rows = pd.concat([part for part in parts if len(part)])  # pandas 2 warns of empty ones
    rows = rows.reindex(columns=["run_id", "step", "values", "differ", "early difference"])
    table = stored.runs.set_index("run_id")[SETTINGS].join(
        rows.groupby("run_id")[["values", "differ"]].sum().astype(int)
    )
    table["from step"] = rows[rows["differ"] > 0].groupby("run_id")["step"].min().astype("Int64")
    early = rows[rows["step"] <= LAST_JUDGED_STEP].groupby("run_id")["early difference"].max()
    table["early difference"] = early.reindex(table.index, fill_value=np.inf)
    there, now = (results.runs.set_index("run_id")[HARDWARE].map(str) for results in (stored, here))
    excused = (there != now.reindex(there.index)).any(axis=1) & (table["early difference"] <= TOLERANCE)
    same = table["differ"] == 0 if equal is None else equal.reindex(table.index)
    table["verdict"] = np.where(same, EQUAL, np.where(excused, CLOSE, DIFFERS))
    return table


def _relative(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Return the difference over the larger of both: 0 if they are equal, infinite if one is not a number."""
    same = (a == b) | (a.isna() & b.isna())
    larger = a.abs().where(a.abs() > b.abs(), b.abs())
    return ((a - b).abs() / larger).fillna(np.inf).mask(same, 0.0)


def _provenance(stored: Results, here: Results, runs: pd.Index) -> pd.DataFrame:
    """Say where and with what the runs were computed, side by side."""
    import pandas as pd

    names = ["code", *software(), *environment()]
    tables = {"stored": stored.runs, "here": here.runs}
    return pd.DataFrame(
        {
            side: [", ".join(sorted({*map(str, table.loc[table["run_id"].isin(runs), name])})) for name in names]
            for side, table in tables.items()
        },
        index=names,
    )
