"""Signals end a program once, in order, and leave no handler behind; test_faults.py sends them to true sweeps."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bnrepro.interrupts import STOPPING, Stopped, end_interrupted, hold_signals, stop_on_signals


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


def test_a_signal_waits_until_what_holds_it_has_ended(number: int) -> None:
    """For a process that is started meanwhile it is blocked, until that leaves it to this one."""
    told: list[str] = []

    def run() -> None:
        with stop_on_signals(), hold_signals():
            os.kill(os.getpid(), number)
            command = [sys.executable, "-c", CHILD, str(number)]
            told.extend(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(Stopped) as stopped:
        run()
    assert stopped.value.number == number
    assert told == ["True", "False", str(number != signal.SIGTERM)]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


CHILD = """
import signal, sys
from bnrepro.interrupts import ignore_interrupts

number = int(sys.argv[1])
print(number in signal.pthread_sigmask(signal.SIG_BLOCK, []))
ignore_interrupts()
print(number in signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.getsignal(number) == signal.SIG_IGN)
"""


def test_another_thread_than_the_main_one_holds_no_signals() -> None:
    with ThreadPoolExecutor(1) as pool, hold_signals():
        pool.submit(lambda: hold_signals().__enter__()).result()


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (Stopped(signal.SIGTERM), 143)])
def test_the_end_is_one_line_and_the_status_that_shells_expect(
    stop: KeyboardInterrupt, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        end_interrupted(stop, "told")
    assert ended.value.code == status
    assert capsys.readouterr().err == "\nbnrepro: interrupted; told\n"
