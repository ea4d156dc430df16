"""See the process and not the training, as a diagnostic; in a module by itself, since workers import what it needs."""

from __future__ import annotations

import time

import numpy as np

from ..layers import Array
from ..measuring import Column, Snapshot, measures
from ..provenance import peak_memory


@measures(
    Column("unix_time", "run", "time since the epoch", "s"),
    Column("peak_memory", "run", "most memory of the process so far", "MB"),
)
def witness(snapshot: Snapshot) -> dict[str, Array]:
    """Measure the time, in seconds since the epoch, and the most memory of the process so far, in MB."""
    peak = peak_memory()
    megabytes = np.nan if peak is None else peak / (1 << 20)
    runs = len(snapshot.lr)
    return {"unix_time": np.full(runs, time.time()), "peak_memory": np.full(runs, megabytes)}
