"""Reproduce Batch Normalization (Ioffe & Szegedy 2015) in NumPy: train sweeps, keep their results, draw figures."""

from . import places
from .batchnorm import BatchNormalization
from .errors import InputError
from .store import Results, load

__all__ = ["BatchNormalization", "InputError", "Results", "load"]
__version__ = places.VERSION

if places.CHECKOUT:  # bnrepro.experiments is a folder beside this one, until it is installed
    __path__.append(str(places.CHECKOUT))
