"""Would a claim reproduce if there were nothing in it? With results permuted there is not, and it hardly ever may.

What is permuted is what the claim compares: results of runs of one seed that differ in the arms alone change places at
random, so each pair is swapped or not. Claims of another form have what fits them instead:

* **Everything**, of runs of one seed, for claims of a level, or that something costs no more than so much: where the
  arms are alike these hold by right, so what is mixed is what differs.
* **VALUES**, for claims that compare what is measured within a run: each column of measurements is shuffled on its own.
* **SIZES**, for claims of how what is measured changes with a size: the columns of all sizes change places in each run.
* Nothing, for claims of which no run can have another's place, with the reason (``EXEMPT``).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from made_up import made_up, runs_of

from bnrepro.analysis import Answer, is_among, judge
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.reference import known, load_reference
from bnrepro.store import MEASURED, Results, is_setting

EVERYTHING = ("",)
VALUES = ("values",)
SIZES = ("sizes",)
NORM = ("norm", "model.norm_options")
NORM_AND_DROPOUT = (*NORM, "model.dropout")

PERMUTED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "accelerating": {"4.2.1": EVERYTHING, "+shuffling": EVERYTHING},
    "batch_size": {"+batch_size": NORM},
    "covariate_shift": {"2.2": NORM, "3.3f": EVERYTHING, "+gradient_shift": NORM},
    "depth": {
        **dict.fromkeys(("I4", "I5"), VALUES),
        "I6": ("activation", "model.init", "lr"),
        **dict.fromkeys(("I7", "3.3d", "3.3e"), NORM),
    },
    "ensemble": {},
    "figure1": dict.fromkeys(("4.1a", "4.1b", "I3"), NORM),
    "growing_rate": {"+growing_rate": EVERYTHING},
    "implementation_mistakes": dict.fromkeys(("2.3", "3.2c"), NORM),
    "inception": dict.fromkeys(("4.2.2a", "4.2.2b", "4.2.2c", "A5", "5.a"), EVERYTHING),
    "initialization": {"A3": NORM},
    "learning_rates": dict.fromkeys(("A2", "3.b", "3.3c"), NORM),
    "mini_batch": {"I1": SIZES, **dict.fromkeys(("3.1a", "3.1b"), VALUES), "+small_mini_batches": NORM},
    "new_distributions": {**dict.fromkeys(("5.d", "+affine"), VALUES), "+fragile": NORM},
    "placement": {
        "3.a": ("model.norm_options.trained",),
        "3.2a": ("model.placement",),
        "3.2b": EVERYTHING,
        "+parts": NORM,
    },
    "regularization": {"A4": NORM_AND_DROPOUT, "3.4a": VALUES, "3.4b": NORM},
    "unstated": {"+unstated": NORM},
    "weight_scale": {"3.3a": VALUES, "3.3b": NORM},
    "whitening": {"2.1": ("dataset.inputs", "dataset.whitening_epsilon"), "+inputs": EVERYTHING, "2.4": NORM},
    "why": {**dict.fromkeys(("A1", "+noise", "+smoothness"), NORM), "+small_rates": EVERYTHING, "+precise": VALUES},
}
"""What changes places, by the experiment and the claim: settings, EVERYTHING, VALUES, or SIZES."""

EXEMPT = {
    "4.2.3": "The mean of what networks predict is made of all of them, so there is none whose place it could take.",
    "+ensemble": "It is better than any network, so also where those of equal cost are drawn from all of them.",
}

TOO_OFTEN = {
    "+small_rates": "Its rate is one at which all end at 90% or more, so whatever is drawn there is nearly alike.",
}
"""The claims whose criterion is met more often, and why: what they say is weaker than it seems."""

MOST = 0.05
"""The largest share of permutations in which a claim may reproduce."""

KEPT = ("seed", "steps", "train.measurements", "diagnostics")
"""The settings of runs that change places where everything does which are the same: how long they are, and measured."""


def permuted(results: Results, arms: Sequence[str], rng: np.random.Generator) -> Results:
    """Results in which those of runs that differ in these arms alone have changed places at random."""
    runs = results.runs
    fixed = [column for column in runs if is_setting(column) and not is_among(str(column), arms)]
    if arms == EVERYTHING:
        fixed = [column for column in KEPT if column in runs]
    blocks, _ = runs[fixed].map(str).apply(tuple, axis=1).factorize()
    places, others = np.lexsort((np.arange(len(runs)), blocks)), np.lexsort((rng.random(len(runs)), blocks))
    source = np.empty(len(runs), int)
    source[places] = others
    own = [str(column) for column in runs if not is_setting(column)]
    changed = runs.assign(**{column: runs[column].to_numpy()[source] for column in own})
    return Results(changed, *(results.table(name) for name in MEASURED))


def shuffled(results: Results, rng: np.random.Generator) -> Results:
    """Results in which each column of measurements is shuffled on its own, among the rows that have one."""

    def shuffle(column: pd.Series) -> pd.Series:
        there = column[column.notna()]
        return pd.Series(there.to_numpy()[rng.permutation(len(there))], there.index).reindex(column.index)

    tables = []
    for name, keys in MEASURED.items():
        table = results.table(name)
        own = [str(column) for column in table if column not in ("run_id", *keys)]
        tables.append(table.assign(**{c: shuffle(table[c]) for c in own}))
    return Results(results.runs, *tables)


def with_sizes_exchanged(results: Results, rng: np.random.Generator) -> Results:
    """Results in which, in each run, columns of curves that differ in the number at their end have changed places."""
    curves = results.table("curves")
    families = pd.Series(curves.columns).groupby(curves.columns.str.replace(r"_\d+$", "", regex=True)).agg(list)
    runs = curves["run_id"].unique()
    for columns in families[families.map(len) > 1]:
        orders = dict(zip(runs, rng.permuted([[*range(len(columns))]] * len(runs), axis=1), strict=True))
        places = np.stack(curves["run_id"].map(orders).to_list())
        curves = curves.assign(
            **dict(zip(columns, np.take_along_axis(curves[columns].to_numpy(), places, 1).T, strict=True))
        )
    return Results(results.runs, curves, *(results.table(name) for name in [*MEASURED][1:]))


MIXED_OTHERWISE: Mapping[Sequence[str], Callable[[Results, np.random.Generator], Results]] = {
    VALUES: shuffled,
    SIZES: with_sizes_exchanged,
}


def answers(experiment: Experiment, ids: Sequence[str], results: Results) -> dict[str, Answer]:
    tables = experiment.analyse(results)
    return {claim.id: judge(claim.findings(tables)) for claim in experiment.claims if claim.id in ids}


@functools.cache
def experiment_of(name: str) -> Experiment:
    found = import_experiment(name)
    assert found
    return found


def shares(name: str, trials: int) -> dict[str, float]:
    """The share of permutations in which each claim of an experiment reproduces."""
    results, count = load_reference(name), Counter[str]()
    by_arms: dict[Sequence[str], list[str]] = {}
    for id_, arms in PERMUTED[name].items():
        by_arms.setdefault(arms, []).append(id_)
    for arms, ids in by_arms.items():
        rng = np.random.default_rng(0)
        for _ in range(trials):
            mixed = MIXED_OTHERWISE.get(arms)
            other = mixed(results, rng) if mixed else permuted(results, arms, rng)
            count += Counter(
                id_ for id_, answer in answers(experiment_of(name), ids, other).items() if answer == "reproduces"
            )
    return {id_: count[id_] / trials for id_ in PERMUTED[name]}


@pytest.mark.parametrize("name", known())
def test_every_claim_is_permuted_or_has_a_reason_not_to_be(name: str) -> None:
    assert {claim.id for claim in experiment_of(name).claims} - {*EXEMPT} == {*PERMUTED[name]}


@pytest.mark.overnight
@pytest.mark.parametrize("name", known())
def test_a_claim_hardly_ever_reproduces_where_there_is_nothing_in_it(name: str) -> None:
    found = shares(name, 200)
    assert {id_: share for id_, share in found.items() if share > MOST and id_ not in TOO_OFTEN} == {}


@pytest.mark.parametrize("name", ["batch_size", "growing_rate"])
def test_where_that_takes_seconds_it_is_tried_each_time(name: str) -> None:
    assert max(shares(name, 40).values()) <= MOST


def test_only_runs_that_differ_in_the_arms_alone_change_places() -> None:
    results = made_up(runs_of("batch_size"))
    other = permuted(results, NORM, np.random.default_rng(0))
    assert (other.runs["run_id"] != results.runs["run_id"]).mean() > 0.3
    for columns in (["seed", "train.batch_size"], ["norm", "lr"]):
        assert other.runs[columns].equals(results.runs[columns])
    block = ["seed", "train.batch_size", "activation", "lr"]
    before, after = (each.runs.groupby(block)["run_id"].agg(set) for each in (results, other))
    assert before.equals(after)
    whose = results.runs.set_index("run_id")["test_accuracy"]
    assert other.runs.set_index("run_id")["test_accuracy"].equals(whose.reindex(other.runs["run_id"]))


def test_sizes_change_places_within_a_run_and_within_what_is_measured() -> None:
    results = load_reference("mini_batch")
    other = with_sizes_exchanged(results, np.random.default_rng(0))
    before, after = results.table("curves"), other.table("curves")
    for quality in ("noise", "bias", "cosine"):
        columns = [column for column in before if str(column).startswith(f"estimate_{quality}_")]
        measured = before[columns].notna().all(axis=1)
        assert (before.loc[measured, columns] != after.loc[measured, columns]).to_numpy().mean() > 0.5
        assert np.array_equal(np.sort(before[columns], axis=1), np.sort(after[columns], axis=1), equal_nan=True)
    others = [column for column in before if not str(column).startswith("estimate_")]
    assert before[others].equals(after[others])
