"""Say what a user got wrong on the command line: one line that names key, value and what is allowed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .composition import mistake
from .errors import InputError

TRACEBACK = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
"""The user's own wish, read before the command line sets the variable so that Hydra raises and does not print."""


def explain(error: Exception, overrides: Sequence[str]) -> str | None:
    """Say what the user did wrong: the key, the value and what is allowed; None if it was not the user."""
    if isinstance(error, InputError):
        return str(error)
    if told := mistake(error, overrides):
        return told
    if isinstance(error, OSError) and error.filename:  # data sets and stores report their own
        return f"results_dir: can't write {error.filename} ({error.strerror})"
    return None


@contextmanager
def bad_input_in_one_line(overrides: Sequence[str]) -> Iterator[None]:
    """End the program with one line and status 1 for a mistake in what the user gave, ``overrides`` and files.

    ``HYDRA_FULL_ERROR=1`` shows the traceback.
    """
    try:
        yield
    except Exception as error:
        explanation = explain(error, overrides)
        if TRACEBACK or explanation is None:
            raise
        print(f"bnrepro: {' '.join(explanation.split())}", file=sys.stderr)
        sys.exit(1)
