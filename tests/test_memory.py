"""Freed memory stays with the process where glibc allocates, and nothing happens elsewhere."""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from bnrepro.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_freed_memory

PAGE_FAULTS = """
import resource
import numpy as np
from bnrepro.memory import keep_freed_memory

keep_freed_memory()
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10**7)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_what_is_allocated_again_costs_no_page_fault() -> None:
    printed = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True).stdout
    first, *others = map(int, printed.split())
    assert first > 30  # 80 MB in pages of 4 kB, or of 2 MB
    assert max(others) < first / 3


@pytest.mark.parametrize("most", [2**31, 2**25], ids=["glibc", "glibc before 2.35"])
def test_the_largest_threshold_that_is_taken_is_set(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    taken = {}

    class Library:
        def __init__(self, name: None) -> None: ...

        def mallopt(self, name: int, value: int) -> bool:
            if allowed := value <= most:
                taken[name] = value
            return allowed

    monkeypatch.setattr(ctypes, "CDLL", Library)
    keep_freed_memory.__wrapped__()
    assert taken[M_MMAP_THRESHOLD] == min(most, 2**30)
    assert most < 2**31 or taken[M_TRIM_THRESHOLD] == 2**31 - 1


def _raise(error: Exception) -> Callable[[None], Any]:
    def library(name: None) -> Any:
        raise error

    return library


@pytest.mark.parametrize("library", [_raise(TypeError()), _raise(OSError()), lambda name: object()])
def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch, library: Callable[[None], Any]) -> None:
    monkeypatch.setattr(ctypes, "CDLL", library)
    keep_freed_memory.__wrapped__()
