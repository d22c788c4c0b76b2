"""Habits of Windows and macOS, as far as Linux can have them: names that fold case, code pages, no fork, long paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from napari_bloodcell.cli import batch
from napari_bloodcell.cli import main as cli
from tests.cli.test_main import rows, run, save
from tests.fakes import BrightnessClassifier, ThresholdGenerator

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_ON_WINDOWS = 260


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, quiet=False: models)


@pytest.fixture
def exfat(tmp_path: Path) -> Iterator[Path]:
    """A folder on exFAT, which takes A.png for a.png, no colon in a name, and no link: a stick of Windows or macOS."""
    tools = ("mkfs.exfat", "mount.exfat-fuse", "losetup")
    if os.name != "posix" or os.geteuid() != 0 or not all(map(shutil.which, tools)):
        pytest.skip("mounting a disk image takes root, exfatprogs and exfat-fuse")
    disk, folder = tmp_path / "disk.img", tmp_path / "stick"
    folder.mkdir()
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.exfat", disk], check=True, capture_output=True)
    done = subprocess.run(["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"there is no loop device: {done.stderr}")
    device = done.stdout.strip()
    try:
        done = subprocess.run(["mount.exfat-fuse", device, folder], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"FUSE does not mount here: {done.stderr}")
        yield folder
        subprocess.run(["umount", folder], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.usefixtures("fake_models")
def test_a_stick_of_windows_takes_the_results_of_images_whose_names_it_would_not(tmp_path: Path, exfat: Path) -> None:
    (exfat / "A").touch()
    assert (exfat / "a").exists()
    with pytest.raises(OSError, match="a:b"):
        (exfat / "a:b").touch()
    names = ("Smear.png", "smear.png", "SMEAR.png", "a:b.png", "con.png", "end..png")
    for seed, name in enumerate(names):
        save(tmp_path / "in" / name, seed=seed)
    for _ in range(2):  # the second time results are replaced
        assert run("analyse", tmp_path / "in", "-o", exfat / "out", "-q") == cli.DONE
        folders = [row["folder"] for row in rows(exfat / "out")]
        assert len({folder.casefold() for folder in folders}) == len(names)
        assert all((exfat / "out" / folder / "recipe.json").is_file() for folder in folders)
    assert not [path for path in (exfat / "out").iterdir() if path.name.startswith(".writing")]


@pytest.mark.usefixtures("fake_models")
def test_a_result_leaves_room_in_the_260_characters_of_a_windows_path(tmp_path: Path) -> None:
    save(tmp_path / "in" / f"{'long name ' * 12}.png")
    assert run("analyse", tmp_path / "in", "-o", tmp_path / "out", "--geojson", "-q") == cli.DONE
    lengths = [len(str(path.relative_to(tmp_path / "out"))) for path in (tmp_path / "out").rglob("*")]
    assert max(lengths) < LONGEST_ON_WINDOWS - 80  # for C:\Users\name\Documents\… before it
    deep = tmp_path.joinpath(*["a folder of a study"] * 16)
    assert len(str(deep)) > LONGEST_ON_WINDOWS
    assert run("analyse", tmp_path / "in", "-o", deep, "-q") == cli.DONE


CODE_PAGE = """
import builtins, os, sys
del os.fork  # Windows has none
from napari_bloodcell.cli import batch, main as cli
from tests.fakes import BrightnessClassifier, ThresholdGenerator
models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
batch.load_models = lambda recipe, quiet=False: models
sys.exit(cli.main(sys.argv[1:]))
"""


def with_code_page(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program as Windows would: a console in cp1252, no fork, and no file opened without a named encoding."""
    environment = os.environ | {
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "cp1252",
        "LC_ALL": "C.UTF-8",  # names of files are Unicode there; text in files is UTF-8 because every open says so
    }
    warn = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning:napari_bloodcell")
    return subprocess.run(
        [sys.executable, *warn, "-c", CODE_PAGE, *map(str, arguments)],
        **{"capture_output": True, "encoding": "cp1252", "env": environment, "check": False},
    )


def test_a_console_of_cp1252_stops_nothing_and_files_are_utf_8(tmp_path: Path) -> None:
    save(tmp_path / "in" / "Färbung μ → 血.png")  # micro is in that code page, mu, arrow and hanzi are not
    done = with_code_page("analyse", tmp_path / "in", "-o", tmp_path / "out", "--geojson")
    assert done.returncode == cli.DONE, done.stderr
    assert "RBC" in done.stdout
    (row,) = rows(tmp_path / "out")
    assert row["status"] == "done"
    assert "血" in (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8")
    assert with_code_page("analyse", "--help").returncode == cli.DONE


def test_no_file_of_the_program_is_opened_without_a_named_encoding() -> None:
    """What `-X warn_default_encoding` finds when it runs, the rule PLW1514 finds in what does not run."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--preview", "--select", "PLW1514", "src"],
        **{"capture_output": True, "text": True, "cwd": Path(__file__).parents[2], "check": False},
    )
    assert done.returncode == 0, done.stdout
