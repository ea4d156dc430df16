"""A diagnostic that sees its process and not the training; by itself, since workers import what it needs."""

from __future__ import annotations

import sys
import time

import numpy as np

from ..diagnostics import Reading, Snapshot


def witness(snapshot: Snapshot) -> Reading:
    """Diagnostic that tells the time, in seconds since the epoch, and the most memory of its process so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        peak = np.nan
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    runs = len(snapshot.lr)
    return Reading(curve={"unix_time": np.full(runs, time.time()), "peak_memory": np.full(runs, peak)})
