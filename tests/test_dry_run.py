"""What a dry run reckons with; what it prints is tested with the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runs import a_run

from bnrepro import dry_run
from bnrepro.config import Inline, RunConfig
from bnrepro.store import RunResult, Store
from bnrepro.training import Measurement

KINDS = [[a_run({"model.norm": norm, "seed": seed}) for seed in range(4)] for norm in ("none", "batch")]
ALL = [run for kind in KINDS for run in kind]


def printed(
    capsys: pytest.CaptureFixture[str], runs: list[RunConfig], missing: list[RunConfig], store: Store | None, size: int
) -> list[str]:
    dry_run.preview(runs, missing, store, Inline(group_size=size), lambda: None)
    return capsys.readouterr().out.splitlines()


def test_the_time_of_a_group_is_shared_by_its_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "_calibrate", lambda runs, data: (20.0, None))
    groups, time, *_ = printed(capsys, ALL, ALL, None, 2)
    assert groups == "8 runs to train in 4 groups of up to 2, 1 at once"
    assert time.startswith("time: about 01:20, ")  # four times 20 s


def test_stored_times_of_a_kind_come_before_calibrated_ones(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dry_run, "_calibrate", lambda runs, data: (20.0, None))
    (plain, *others), normalised = KINDS
    store = Store(tmp_path, create=True)
    store.add([RunResult(config=plain, test_accuracy=0.5, seconds=100.0)])
    groups, time, *_ = printed(capsys, ALL, [*others, *normalised], store, 1)
    assert groups == "7 runs to train in 7 groups of up to 1, 1 at once"
    assert time.startswith("time: about 06:20, by the times of stored runs, and by 0.2 s ")  # 3 · 100 s + 4 · 20 s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which goes on by 0.01 s a step and 100 s a measurement that is not of next to nothing."""
    clock, nothing = [0.0], np.zeros(1)

    def events(runs: list[RunConfig], data: object) -> Iterator[Measurement]:
        train, before = runs[0].train, 0
        for step in train.measured_steps:
            clock[0] += 0.01 * (step - before) + (100.0 if train.eval_examples > 1 else 0.0)
            before = step
            yield Measurement(step, nothing, nothing, nothing, nothing, {}, [], {})

    monkeypatch.setattr(dry_run, "events", events)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    return clock


def test_steps_are_timed_apart_from_measurements_that_take_longer(clock: list[float]) -> None:
    run = a_run({"train.steps": 1000, "train.measurements": 10})
    seconds, _ = dry_run._calibrate([run], None)  # type: ignore[arg-type]
    assert seconds == pytest.approx(1000 * 0.01 + len(run.train.measured_steps) * 100, rel=1e-3)


def test_runs_that_are_measured_at_their_end_alone_are_not_trained_to_it(clock: list[float]) -> None:
    run = a_run({"train.steps": 1_000_000, "train.measurements": 1, "train.early_measurements": False})
    seconds, _ = dry_run._calibrate([run, run], None)  # type: ignore[arg-type]
    assert seconds == pytest.approx(1_000_000 * 0.01 + 2 * 2 * 100, rel=1e-3)
    assert clock[0] < 200
