"""Results of runs that were never trained, for the tests of what is made of results."""

import functools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from bnrepro.analysis import Finding, Tables
from bnrepro.composition import compose
from bnrepro.config import RunConfig, Settings
from bnrepro.experiment import Experiment
from bnrepro.recipe import MEASURES
from bnrepro.store import MEASURED, Results, RunResult, Store
from bnrepro.sweeping import expand

STEPS = (0, 1, 10, 100, 400, 700, 1000)
"""The share of training, in thousandths, after which something is measured."""


def an_outcome(run: RunConfig, *, diverged: bool | None = None) -> RunResult:
    """How the run might have ended: high rates diverge, batch norm gains, and all that is measured is positive."""
    rng = np.random.default_rng(int(run.run_id, 16))
    if diverged is None:
        diverged = run.lr > (5 if getattr(run.model.value, "norm", "none") == "none" else 20)
    final = 0.9 + 0.02 * (getattr(run.model.value, "norm", "none") == "batch") + rng.uniform(0, 0.05)
    result = RunResult(run, status="diverged" if diverged else "done", test_accuracy=None if diverged else final)
    steps = [run.train.steps * share // 1000 for share in STEPS]
    if diverged:
        steps, result.diverged_at = steps[:3], steps[2] + 1
    columns = [c for name in run.diagnostics for c in MEASURES.resolve(name, "").columns]
    for step in dict.fromkeys(steps):
        reached = final * (1 - np.exp(-4 * step / run.train.steps)) + 0.1
        always = {"train_loss": 2 / (1 + step), "test_accuracy": min(reached, final), "gradient_norm": 0.1}
        result.curves.append({"step": step, **always} | _measured(columns, "run", rng))
        for table, level, count in ((result.layers, "layer", 3), (result.units, "unit", 12)):
            if any(column.level == level for column in columns):
                table += [{"step": step, level: i} | _measured(columns, level, rng) for i in range(1, count + 1)]
    if run.train.predictions and not diverged:
        labels = np.arange(40, dtype=np.uint8) % 10
        probabilities = rng.dirichlet(np.ones(10), 40) + 0.5 * np.eye(10)[labels]
        row = {"probabilities": (probabilities / 1.5).astype(np.float16).tobytes(), "labels": labels.tobytes()}
        result.predictions = [row]
    return result


def _measured(columns: Iterable[object], level: str, rng: np.random.Generator) -> dict[str, float]:
    return {c.name: float(rng.uniform(0.1, 1)) for c in columns if c.level == level}  # type: ignore[attr-defined]


def made_up(runs: Sequence[RunConfig], *, diverged: bool | None = None) -> Results:
    """Results of these runs, as a store gives them."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        store.add(an_outcome(run, diverged=diverged) for run in runs)
        results = store.load(runs)
        return Results(results.runs, *(results.table(name) for name in MEASURED))


def findings_of(experiment: Experiment, tables: Tables, *ids: str) -> list[Finding]:
    """The findings of an experiment's claims: of those of these ids, or of all."""
    claims = [claim for claim in experiment.claims if not ids or claim.id in ids]
    return [finding for claim in claims for finding in claim.findings(tables)]


@functools.cache
def runs_of(name: str, *overrides: str) -> tuple[RunConfig, ...]:
    """The runs of a sweep."""
    settings = Settings.parse(compose([f"sweep={name}", *overrides]))
    return tuple(expand(settings.run, *settings.grids))


WITHOUT_CLAIMS = {"first"}
"""The sweeps that are shown, and test no claim of anybody's: they have no verdict, and no reference data."""

MINE = """
from bnrepro.analysis import above, estimate, mean, outcomes, cells, table, finals
from bnrepro.experiment import Claim, Experiment
from bnrepro.figures import accuracy_against


def analyse(results):
    runs = outcomes(results)
    found = {(lr, "accuracy"): mean(cell["accuracy"]) for lr, cell in cells(runs, ["lr"]).items()}
    return {"score": table(found, ["lr", "quantity"]), **finals(runs, ["activation", "norm", "lr"])}


def draw(tables):
    return {"mine": accuracy_against("learning rate", tables["final"], tables["diverged"])}


def findings(tables):
    return [above("accuracy at 0.1", estimate(tables["score"], 0.1, "accuracy"), 0.5)]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="+mine",
            section="Section 0",
            sentence="It learns.",
            criterion="It ends at 50% or more.",
            findings=findings,
            figure="mine",
        )
    ],
    arms=["lr"],
    needs=["run.test_accuracy"],
    uses=["layer.p50"],
    analyse=analyse,
    draw=draw,
)
"""
"""An experiment of a user's own."""


def write_experiment(folder: Path, text: str = MINE, name: str = "mine") -> Path:
    """Write an experiment where it is found by its name."""
    path = folder / "experiments" / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path
