"""Signals end a program once, in order, and leave no handler behind; test_faults.py sends them to true sweeps."""

import os
import signal
from collections.abc import Iterator

import pytest

from bnrepro.interrupts import STOPPING, Stopped, end_interrupted, stop_on_signals


@pytest.fixture(params=STOPPING)
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    before = signal.signal(request.param, signal.default_int_handler)  # which may be ignored in the background
    yield request.param
    signal.signal(request.param, before)


def test_the_first_signal_ends_what_runs_and_the_next_do_not_disturb_the_ending(number: int) -> None:
    handlers = [signal.getsignal(each) for each in STOPPING]
    ending: list[str] = []

    def run() -> None:
        with stop_on_signals():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)
                ending.append("to its end")

    with pytest.raises(Stopped) as stopped:
        run()
    assert stopped.value.number == number
    assert ending == ["to its end"]
    assert [signal.getsignal(each) for each in STOPPING] == handlers


def test_a_signal_that_is_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    with stop_on_signals():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (Stopped(signal.SIGTERM), 143)])
def test_the_end_is_one_line_and_the_status_that_shells_expect(
    stop: KeyboardInterrupt, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        end_interrupted(stop, "told")
    assert ended.value.code == status
    assert capsys.readouterr().err == "\nbnrepro: interrupted; told\n"
