"""What is done, and answered, before Hydra composes settings."""

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from calls import in_a_process

from bnrepro.places import VERSION
from bnrepro.startup import answer, begin

COMMANDS = Path(sys.executable).parent


@pytest.mark.parametrize("program", ["/bin/bnrepro", "/bnrepro/__main__.py"])
def test_the_version_is_one_line(program: str) -> None:
    assert answer([program, "--version"]) == f"bnrepro {VERSION}"
    assert answer([program, "+sweep"]) is None


def test_hydra_answers_for_an_installed_command_what_it_does_not_know_of_python_m() -> None:
    assert answer(["/bin/bnrepro", "-sc", "install=bash"]) is None
    for request in ("install=bash", "uninstall=bash"):
        assert "_bnrepro_by_python" in str(answer(["/bnrepro/__main__.py", "-sc", request]))


@pytest.mark.parametrize("command", ["bnrepro", "python -m bnrepro"])
def test_bash_completes(command: str, tmp_path: Path) -> None:
    own = tmp_path / "conf" / "sweep" / "my_own.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("grid: {seed: [0]}\n")
    script = f"""
    eval "$({command} -sc install=bash)"
    for line in "{command} +sweep=my" "{command} +sweep optimizer.l" "{command.split()[0]} else"; do
        COMP_LINE=$line; COMP_WORDS=($line); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
        function=$(complete -p ${{COMP_WORDS[0]}} | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        $function ${{COMP_WORDS[0]}}
        echo "${{COMPREPLY[@]}}"
    done
    """
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.splitlines(), done.stderr) == (["+sweep=my_own", "optimizer.lr=", ""], "")


NO_SEMAPHORES = """
import _multiprocessing, errno, os
from bnrepro.__main__ import main

class SemLock:
    SEM_VALUE_MAX = 1

    def __init__(self, *given, **named):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

_multiprocessing.SemLock = SemLock
main()
"""


def test_a_read_only_dev_shm_is_no_matter_to_a_single_run(tmp_path: Path) -> None:
    ended = in_a_process(["-c", NO_SEMAPHORES, "train.steps=1"], tmp_path)
    assert (ended.status, ended.err) == (0, "")


def test_import_paths_begin_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.StringIO())
    for _ in range(2):
        with begin():
            pass
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp932", "cp949", "latin-1", "gbk"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_no_character_stops_what_is_printed(name: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a console of Windows; true streams are below."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with begin():
        stream = getattr(sys, name)
        print("90–95, ‖G‖, m/(m−1)…", "\udcff", file=stream, flush=True)
    told = stream.buffer.getvalue().decode(encoding)
    assert re.search(r"^90.95, [^\\]*G[^\\]*, m/\(m.1\)(…|\.\.\.) \\udcff\n$", told), told
    if encoding == "ascii":
        assert told == "90-95, ||G||, m/(m-1)... \\udcff\n"


FULL = "bnrepro: stdout: can't be written (No space left on device)\n"


@pytest.mark.parametrize(
    ("shell", "status", "err"),
    [
        ("exec >/dev/full; {}", 1, FULL),
        ("exec >/dev/full 2>/dev/full; {}", 1, ""),
        ("exec >&-; {}", 0, ""),
        ("exec >&- 2>&-; {}", 0, ""),
        ("set -o pipefail; {} | true", 1, ""),
        ("set -o pipefail; {} | head -n 1", 1, ""),
        ("set -o pipefail; {} 2>&1 | true", 1, ""),
        ("export PYTHONUNBUFFERED=1; exec >/dev/full; {}", 1, FULL),
        ("export LANG=C PYTHONUTF8=0 PYTHONIOENCODING=ascii; {}", 0, ""),
        ("export PYTHONIOENCODING=cp932; {}", 0, ""),
    ],
)
def test_output_that_fails_stops_no_work(shell: str, status: int, err: str, tmp_path: Path) -> None:
    """More is printed than a pipe holds, in characters that few encodings have, and then a file is written."""
    (tmp_path / "work.py").write_text(WORK, "utf-8")
    command = shell.format(shlex.join([sys.executable, "-W", "error", "work.py"]))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (status, err)
    assert (tmp_path / "written").read_text() == "whole"


WORK = """
from pathlib import Path
from bnrepro.startup import begin

with begin():
    for _ in range(3):
        print("여기 – ", "x" * 100_000, flush=True)
    with Path("written").open("x") as file:
        file.write("whole")
"""
