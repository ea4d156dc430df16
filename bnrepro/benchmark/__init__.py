"""Measure how fast training is on this machine, and beside what: ``python -m bnrepro +benchmark``, or ``=quick``.

The time of a step is in microseconds of processor time per run, on one core and with one BLAS thread; a step has its
mini-batch drawn, goes forward and backward, and updates the parameters (SGD). The contestants take turns in one
process, so that drift of the machine hits all alike; shown are medians over the rounds, and the quartiles.

- floor: nothing but the matrix products of a step, on finite values, as one ``np.matmul`` per product for all runs;
- bnrepro: the training loop of this package in NumPy, with R runs in lock-step; compiled: its compiled engine;
- JAX: ``jit`` of ``lax.map`` over 8 runs of ``scan`` over mini-batches;
- PyTorch compiled: ``torch.compile`` of a step of ``torch.func.vmap`` over 8 runs; PyTorch: eager, one run, and for
  convolutions with channels last, too.

All train the same networks on the same mini-batches, and must end at the same loss.

Images are made by formula, and so are the same everywhere; ``sparse`` ones have as many ones as MNIST's, and where.

Rooms: ``contestants`` (who takes part, and what is trained), ``contest`` (turns, the check of the losses, what keeps a
step from the floor), ``limits`` (what would limit many cores), ``around`` (start-up, throughput and memory of whole
commands, of which ``witness`` tells from within the workers), ``charts`` (figures).
``results/reference/benchmark`` has what one machine gave; its README.md says what was tried to make the step faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from ..config import Settings


def benchmark(settings: Settings) -> None:
    """Measure everything and show it: printed, and as tables and figures in the folder of results."""
    # Here, so that whoever imports one room of this package does not import all that the others need.
    import os

    import pandas as pd

    from .. import figures
    from . import around, charts, contest, limits

    quick, folder = settings.benchmark == "quick", settings.results_dir / "benchmark"
    machine, rounds, paths = around.machine(), 1 if quick else 9, []

    def show(name: str, table: pd.DataFrame) -> pd.DataFrame:
        print(f"\n{name}\n{table.round(2).to_string(index=False)}", flush=True)
        paths.append(folder / f"{name}.csv")
        with figures.atomic_write(paths[-1]) as partial:
            table.assign(machine=machine).to_csv(partial, index=False)
        return table

    print(machine, flush=True)
    with contest.one_core():
        steps = show("steps", contest.steps(rounds, quick=quick))
        show("profile", contest.profile(rounds, steps))
        growth = show("growth", contest.growth(min(rounds, 5), quick=quick))
        show("convolutions", contest.convolutions(rounds))
        shares = contest.measuring(rounds)
    show("limits", limits.limits(rounds))
    sizes = show("sweep_sizes", around.sweep_sizes((10, 100) if quick else (10, 100, 1000, 10_000), settings.run))
    found = shares | around.around(quick=quick)
    show("around", pd.DataFrame(found.items(), columns=["what", "value"]))
    with figures.look():
        paths += figures.save(charts.bars(steps), folder, "steps")
        paths += figures.save(charts.growth_curves(growth, sizes), folder, "growth")
    for path in paths:
        print(os.path.relpath(path))
