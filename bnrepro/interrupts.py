"""Signals that ask the program to end: they end it as Ctrl-C does, with one line and the status that shells expect."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a program to end; Windows has no SIGHUP."""

CAN_BLOCK = hasattr(signal, "pthread_sigmask")
"""Whether signals can be blocked, which Windows can't."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__()
        self.number = number


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does; what comes after the first does not disturb the ending."""
    caught = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it

    def stop(number: int, frame: object) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Let such signals wait until this has ended; processes that are started meanwhile begin with them blocked.

    One that has half begun would else print the traceback of an interruption that is not its own.
    """
    if threading.current_thread() is not threading.main_thread():  # which alone has handlers
        yield
        return
    held: list[int] = []
    caught = [number for number in STOPPING if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, frame: held.append(number)) for number in caught}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING) if CAN_BLOCK else []
    try:
        yield
    finally:
        if CAN_BLOCK:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held[:1]:
            signal.raise_signal(number)


def ignore_interrupts() -> None:
    """Leave Ctrl-C and the end of a terminal, which reach all of its processes, to the one that started this one."""
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def end_interrupted(stop: KeyboardInterrupt, told: str) -> NoReturn:
    """End with a line that begins with "interrupted", and the status that shells expect."""
    with suppress(OSError):  # the terminal may be gone
        print(f"\nbnrepro: interrupted; {told}", file=sys.stderr, flush=True)
    sys.exit(128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT))
