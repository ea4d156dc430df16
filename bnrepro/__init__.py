"""Reproduce Batch Normalization (Ioffe & Szegedy 2015) in NumPy: train sweeps, keep their results, draw figures."""

from .batchnorm import BatchNormalization
from .errors import InputError
from .store import Results, load

__all__ = ["BatchNormalization", "InputError", "Results", "load"]
