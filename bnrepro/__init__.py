"""Reproduce Batch Normalization (Ioffe & Szegedy 2015) in NumPy: train sweeps, keep their results, draw figures."""

import importlib
from typing import TYPE_CHECKING

from . import places
from .errors import InputError

if TYPE_CHECKING:
    from .api import load, sweep, train
    from .batchnorm import BatchNormalization
    from .store import Results

__all__ = ["BatchNormalization", "InputError", "Results", "load", "sweep", "train"]
__version__ = places.VERSION

if places.CHECKOUT:  # bnrepro.experiments is a folder beside this one, until it is installed
    __path__.append(str(places.CHECKOUT))

_ROOMS = {"BatchNormalization": "batchnorm", "Results": "store", "load": "api", "sweep": "api", "train": "api"}
"""Where each name is, from which it is imported at first use: ``--help`` and workers need no pandas.

No module of the package has such a name, since importing it would put it in the place of the function."""

if not TYPE_CHECKING:  # it would make every name a good one

    def __getattr__(name: str) -> object:
        if name not in _ROOMS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_ROOMS[name]}", __name__), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_ROOMS})
