"""The command line as a guest of shells, pipelines and manuals."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from napari_bloodcell.cli import main as cli

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> int:
    return cli.main([str(a) for a in arguments])


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_new_bash_completes_commands_and_flags_once_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    assert run("completion", "bash", "--install") == cli.DONE
    assert str(tmp_path) in capsys.readouterr().out
    program = """
    source "$HOME/.bashrc"
    name=$(complete -p napari-bloodcell | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    complete_words() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); COMPREPLY=(); $name; echo "${COMPREPLY[@]}"; }
    complete_words napari-bloodcell trai
    complete_words napari-bloodcell analyse --tile-
    """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert [sorted(line.split()) for line in done.stdout.splitlines()] == [
        ["train", "train-sam", "training-set"],
        ["--tile-overlap", "--tile-size"],
    ]


@pytest.mark.parametrize("command", [(), ("analyse",), ("compare",), ("models", "download")])
def test_the_help_of_every_command_has_the_exit_codes(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(*command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    for code in (cli.DONE, cli.SOME_FAILED, cli.WRONG_USE, cli.INTERRUPTED):
        assert re.search(rf"Exit codes:.*\b{code} \w", text)


@pytest.mark.skipif(
    f"cyclopts=={version('cyclopts')}" not in (ROOT / "constraints.txt").read_text(encoding="utf-8"),
    reason="another version of cyclopts writes the help in other words",
)
def test_the_man_page_is_that_of_the_help() -> None:
    maker = runpy.run_path(str(ROOT / "deploy" / "make_man_page.py"))
    assert maker["PAGE"].read_text(encoding="utf-8") == maker["page"](), "run python deploy/make_man_page.py"


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man")
def test_man_shows_the_page_without_a_complaint() -> None:
    page = ROOT / "deploy" / "napari-bloodcell.1"
    done = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "--tile-size" in done.stdout
    assert "EXIT STATUS" in done.stdout
