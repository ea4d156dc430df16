"""The paper's Figure 1 (Section 4.1) over what the paper leaves unsaid: learning rate and initial weights."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from bnrepro import Results


def score(results: Results) -> pd.DataFrame:
    """Final test accuracy, median over seeds: a row per norm and initialization, a column per learning rate."""
    runs = results.runs.assign(std=results.runs["model.init.std"].fillna("xavier"))
    return runs.pivot_table(index=["norm", "std"], columns="lr", values="test_accuracy", aggfunc="median", sort=False)


def figures(results: Results) -> dict[str, Figure]:
    """None yet."""
    return {}
