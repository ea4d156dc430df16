"""What is done, and answered, before Hydra composes settings."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_import_paths_begin_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        begin()
    assert sys.path[0] == str(tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_no_character_stops_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    begin()
    print("m/(m−1), 여기", flush=True)
    assert written.getvalue().split() == [rb"m/(m\u22121),", rb"\uc5ec\uae30"]
