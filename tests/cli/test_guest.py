"""The command line as a guest of shells, pipelines and manuals."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import PIL.Image
import pytest
import yaml

from napari_bloodcell.cli import main as cli
from napari_bloodcell.synthetic import load_shipped

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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("snakemake") is None, reason="snakemake is not installed")
def test_the_snakemake_example_counts_each_image_and_reports_their_smear(tmp_path: Path) -> None:
    image, _ = load_shipped()
    (tmp_path / "slides").mkdir()
    for name, part in (("a", image[:256, :256]), ("b", image[256:512, :256])):
        PIL.Image.fromarray(part).save(tmp_path / "slides" / f"{name}.jpg", quality=95)
    snakefile = ROOT / "docs" / "examples" / "snakemake" / "Snakefile"
    done = subprocess.run(
        ["snakemake", "--cores", "2", "--snakefile", snakefile, "--config", "slides=slides"],
        **{"capture_output": True, "text": True, "cwd": tmp_path, "check": False},
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode == 0, done.stderr
    specimen = json.loads((tmp_path / "specimen" / "specimen.json").read_text(encoding="utf-8"))
    fields = [json.loads((tmp_path / "results" / f / f / "counts.json").read_text(encoding="utf-8")) for f in "ab"]
    assert specimen["counts"]["RBC"] == sum(field["counts"]["RBC"] for field in fields) > 10
    assert (tmp_path / "specimen" / "report.html").is_file()
    last = (tmp_path / "logs" / "a.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last)["event"] == "progress"


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_every_step_of_the_hosted_checks_is_a_command_of_the_repository(workflow: Path) -> None:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    commands = re.findall(r"^([a-z| ]+)\)$", (ROOT / "run").read_text(encoding="utf-8"), re.MULTILINE)
    known = {word for line in commands for word in line.replace("|", " ").split()}
    steps = [step["run"].split() for job in jobs.values() for step in job["steps"] if "run" in step]
    assert steps
    assert all(step[0] == "./run" and step[1] in known for step in steps)


def test_the_conda_recipe_asks_for_what_the_package_asks_for() -> None:
    recipe = yaml.safe_load((ROOT / "deploy" / "conda" / "recipe.yaml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    other_names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # those of conda-forge

    def of_conda(lines: list[str]) -> set[str]:
        parts = [re.fullmatch(r"([\w-]+)(.*)", line) for line in lines]
        return {f"{other_names.get(part[1].lower(), part[1].lower())} {part[2]}" for part in parts if part}

    needed = recipe["requirements"]
    assert set(needed["run"]) - {"python >=${{ python_min }}"} == of_conda(project["dependencies"])
    assert set(needed["run_constraints"]) == of_conda(project["optional-dependencies"]["napari"])
