"""Prepare what Hydra has to know before it composes settings, and what a process of this program needs."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from .places import CONF, VERSION

VERSION_BASE = {"version_base": "1.3"} if version("hydra-core").startswith("1.3.") else {}
"""The keyword without which Hydra 1.3 warns; 1.4, which has the one behaviour only, warns with it."""

SHELL = {
    "install=bash": """\
_bnrepro_by_python()
{
    if [ "${COMP_WORDS[1]}" = -m ] && [ "${COMP_WORDS[2]}" = bnrepro ]; then
        local choices=$(COMP_LINE="bnrepro${COMP_LINE#*-m bnrepro}" "$1" -m bnrepro -sc query=bash)
        COMPREPLY=($(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _bnrepro_by_python python python3""",
    "uninstall=bash": "complete -r python python3; unset -f _bnrepro_by_python",
}
"""Bash scripts for the completion of ``python -m bnrepro``; Hydra's own are for an installed command only."""


def answer(arguments: Sequence[str]) -> str | None:
    """Return what Hydra would answer for itself, or wrongly, or None: ``--version``, and ``python -m``'s completion.

    Args:
        arguments: as in ``sys.argv``.
    """
    if "--version" in arguments[1:]:
        return f"bnrepro {VERSION}"
    scripts = [script for request, script in SHELL.items() if request in arguments[1:]]
    return scripts[0] if scripts and arguments[0].endswith("__main__.py") else None


def begin() -> None:
    """Let import paths begin at the current folder, and let no character stop what is printed.

    The first is what ``python -m`` does. The second is of use where output is a file or a pipe in an encoding of few
    characters, as on Windows.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class OwnOptions(SearchPathPlugin):
    """A plugin of Hydra that finds options in ``conf/`` of the current folder too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if there is one."""
        own = Path.cwd() / "conf"
        if own != CONF and own.is_dir():
            search_path.append("bnrepro", f"file://{own}")


Plugins.instance().register(OwnOptions)
