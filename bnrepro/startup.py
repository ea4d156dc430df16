"""Prepare what Hydra has to know before it composes settings, and what a process of this program needs."""

from __future__ import annotations

import codecs
import gc
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

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


PLAIN = {"–": "-", "−": "-", "‖": "||", "…": "..."}
"""What stands for a character where output is in an encoding that lacks it, as on Windows; others become escapes."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, c.encode("ascii", "backslashreplace").decode()) for c in lacking), error.end


codecs.register_error("bnrepro.plain", _plain)


class _Lasting(io.FileIO):
    """Standard output or error that swallows what it can't write, so that the work goes on, and keeps the reason."""

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error
        return len(data)


def _lasting(stream: TextIO | None) -> tuple[TextIO, _Lasting | None]:
    """Return what takes the place of a standard stream: no character and no failure stops what is printed there."""
    if stream is None:  # closed; and its number must not become that of the next file that is opened
        stream = open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if not isinstance(stream, io.TextIOWrapper):  # as a notebook has it
        return stream, None
    old = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(old, io.FileIO):  # a console of Windows
        stream.reconfigure(errors="bnrepro.plain")
        return stream, None
    stream.flush()
    raw = _Lasting(old.fileno(), "w", closefd=False)
    buffer = raw if stream.buffer is old else io.BufferedWriter(raw)  # none with python -u
    lines, through = stream.line_buffering, stream.write_through
    return io.TextIOWrapper(buffer, stream.encoding, "bnrepro.plain", None, lines, through), raw


@contextmanager
def begin() -> Iterator[None]:
    """Let import paths begin at the current folder, as ``python -m`` does, and let no failure to print stop the work.

    What is printed may meet an encoding of few characters, a full disk, or a reader that has had enough, such as head.
    Where stdout failed, a command that did its work ends with status 1, and one line unless the reader has gone.
    """
    gc.set_threshold(10_000)  # imports and figures make many objects that stay, and looking through them took 10%
    # Of a read-only /dev/shm, which is told where processes would be started.
    warnings.filterwarnings("ignore", ".*joblib will operate in serial mode", UserWarning)
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    sys.stderr, _ = _lasting(sys.stderr)
    sys.stdout, raw = _lasting(sys.stdout)
    try:
        yield
    except SystemExit as ended:
        if ended.code:
            raise
    sys.stdout.flush()
    if raw and raw.failed:
        if not isinstance(raw.failed, BrokenPipeError):
            print(f"bnrepro: stdout: can't be written ({raw.failed.strerror})", file=sys.stderr)
        sys.exit(1)


class OwnOptions(SearchPathPlugin):
    """A plugin of Hydra that finds options in ``conf/`` of the current folder too."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folder, if there is one."""
        own = Path.cwd() / "conf"
        if own != CONF and own.is_dir():
            search_path.append("bnrepro", f"file://{own}")


Plugins.instance().register(OwnOptions)
