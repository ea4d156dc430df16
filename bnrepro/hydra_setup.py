"""What Hydra has to know of this program besides ``conf/``: where else options are, and how a shell completes."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from .places import CONF

VERSION_BASE = {"version_base": "1.3"} if version("hydra-core").startswith("1.3.") else {}
"""Hydra 1.3 warns without it, and 1.4, which has the one behaviour only, warns with it."""

COMPLETION = """\
_bnrepro_by_python()
{
    if [ "${COMP_WORDS[1]}" = -m ] && [ "${COMP_WORDS[2]}" = bnrepro ]; then
        local choices=$(COMP_LINE="bnrepro${COMP_LINE#*-m bnrepro}" "$1" -m bnrepro -sc query=bash)
        COMPREPLY=($(compgen -W "$choices" -- "${COMP_WORDS[COMP_CWORD]}"))
    fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F _bnrepro_by_python python python3"""
"""Bash script that completes ``python -m bnrepro``; Hydra's own completes an installed command only."""


class OwnOptions(SearchPathPlugin):
    """Options are found in ``conf/`` of the current folder too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder."""
        own = Path.cwd() / "conf"
        if own != CONF:
            search_path.append("bnrepro", f"file://{own}")


Plugins.instance().register(OwnOptions)
