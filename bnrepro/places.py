"""Find what is installed, and where: settings, experiments and reference data, ours and the user's own.

Ours stand beside the package in a checkout, and inside it once a wheel is installed. The user's own stand where the
command is given: sweeps and other options in ``conf/GROUP/NAME.yaml``, experiments in ``experiments/NAME.py``. With
``--config-dir DIR`` options are looked for in ``DIR`` too, and experiments in ``experiments/`` beside it. A name that
is found twice is refused, so that neither hides the other.
"""

from __future__ import annotations

import codecs
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from .errors import InputError

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = None if (PACKAGE / "conf").is_dir() else PACKAGE.parent
"""The folder of the source code; None if a wheel is installed."""
CONF = (CHECKOUT or PACKAGE) / "conf"
EXPERIMENTS = (CHECKOUT or PACKAGE) / "experiments"
REFERENCE = CHECKOUT / "results" / "reference" if CHECKOUT else PACKAGE / "reference"

_option_folders: list[Path] = []
"""The folders of options of the last command: ours, that of the current folder, and those of ``--config-dir``."""


def installed_version() -> str:
    """Return the version under which pip has installed the package.

    Raises:
        ImportError: if it has not. Under ``python -m``, SystemExit with the same line.
    """
    # What setuptools leaves in a clone says nothing about this environment.
    found = [d for d in distributions(name="bnrepro") if Path(str(d.locate_file(""))).resolve() != CHECKOUT]
    if found:
        return found[0].version
    told = f"bnrepro: not installed, only cloned; python -m pip install -e {CHECKOUT} does that"
    if sys.argv[0] == "-m":  # as long as Python looks for the module to run
        sys.exit(told)
    raise ImportError(told)


def use(runtime: Any) -> None:
    """Take note of where Hydra has found its options.

    Args:
        runtime: ``hydra.runtime`` of what it has composed.

    Raises:
        InputError: if an option that was chosen, or the experiment of the sweep, is in more than one folder; or if an
            option has a ``# @package`` that Hydra does not see.
    """
    found = (Path(source["path"]).resolve() for source in runtime["config_sources"] if source["schema"] == "file")
    _option_folders[:] = dict.fromkeys(found)
    for group, option in runtime["choices"].items():
        if isinstance(option, str):
            file = option_file(group, option)
            if file and file.read_bytes().startswith(codecs.BOM_UTF8 + b"# @package"):
                raise InputError(f"{file}: begins with a byte order mark, behind which Hydra does not see # @package")
    find_experiment(str(runtime["choices"].get("sweep")))


def option_file(group: str, option: str) -> Path | None:
    """Return the path ``GROUP/OPTION.yaml`` in the folders of options of the last command, or None.

    Raises:
        InputError: if there is more than one.
    """
    return _only_one([folder / group / f"{option}.yaml" for folder in _option_folders])


def find_experiment(name: str) -> Path | None:
    """Return the path ``experiments/NAME.py``, ours or the user's own, or None.

    Raises:
        InputError: if there is more than one.
    """
    own = [folder.parent / "experiments" for folder in (Path.cwd() / "conf", *_option_folders) if folder != CONF]
    return _only_one([folder / f"{name}.py" for folder in dict.fromkeys([EXPERIMENTS, *own])])


def _only_one(candidates: list[Path]) -> Path | None:
    found = [path for path in candidates if path.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[1]}: has the name of {found[0]}; rename it")
    return found[0] if found else None


VERSION = installed_version()
