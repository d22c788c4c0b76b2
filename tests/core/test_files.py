"""Files and folders are written whole or not at all, and every name becomes one that all systems take."""

from __future__ import annotations

import ntpath
import os
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.cli.folders import folder_names
from napari_bloodcell.core.errors import OutputError
from napari_bloodcell.core.files import (
    IN_USE,
    LOCK,
    LONGEST_BYTES,
    legal_name,
    locked,
    staged,
    sweep,
    sweep_folders,
    temporary_folder,
    write_bytes,
)

# --- whole or not at all ---------------------------------------------------------------------------------------------


def test_files_get_the_permissions_of_the_user_and_nobody_touches_the_umask(tmp_path, monkeypatch):
    (tmp_path / "usual").write_bytes(b"")
    monkeypatch.setattr(os, "umask", None)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: write_bytes(tmp_path / f"{n}", b"content"), range(64)))
    assert {p.stat().st_mode for p in tmp_path.iterdir()} == {(tmp_path / "usual").stat().st_mode}


def test_a_move_that_fails_puts_back_what_was_there(tmp_path, monkeypatch):
    replace = os.replace

    def write(text: str, *names: str) -> None:
        with staged(tmp_path, last="mark", stale=("extra",)) as stage:
            for name in names:
                (stage / name).write_text(text)

    def fail_at_b(source, target):
        if Path(source).read_text() == "new" and Path(source).name == "b":
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    write("old", "a", "b", "mark", "extra")
    monkeypatch.setattr(os, "replace", fail_at_b)
    with pytest.raises(OutputError, match="Permission denied"):
        write("new", "a", "b", "mark")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == dict.fromkeys(("a", "b", "mark", "extra"), "old")


def test_a_lock_is_held_by_one_at_a_time_and_free_when_its_process_is_killed(tmp_path):
    code = "from napari_bloodcell.core.files import *\n"
    code += f"with locked(Path({str(tmp_path / LOCK)!r})): print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(OutputError, match="Another run is writing to"), locked(tmp_path / LOCK, wait=False):
            pass
        other.kill()
    with locked(tmp_path / LOCK, wait=False):
        pass


def test_what_killed_processes_left_is_swept_and_what_is_in_use_stays(tmp_path):
    for name in (".writing-old", ".writing-locked"):
        (tmp_path / name).mkdir()
    os.utime(tmp_path / ".writing-old", (0, 0))
    (tmp_path / ".writing-locked" / IN_USE).touch()
    (tmp_path / ".writing-file").touch()
    with temporary_folder(tmp_path) as ours:
        sweep_folders(tmp_path)
        assert {p.name for p in tmp_path.iterdir()} == {ours.name, ".writing-file"}
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [ours]
    assert not list(tmp_path.iterdir())


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["smear", "smear_1 (2).tile", "Ausstrich Nr. 3 µm", "塗抹標本", "a.b.c", "console", "COM10"]
)
def test_a_name_that_every_system_takes_stays(name):
    assert legal_name(name) == name


@pytest.mark.parametrize(
    ("given_name", "legal"),
    [
        ("12:30 <a>|b?*", "12_30 _a__b__"),
        ('say "cells"', "say _cells_"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\smears", "C__smears"),
        ("smear. . ", "smear"),
        (".hidden", "hidden"),
        ("CON", "_CON"),
        ("nul.tif", "_nul.tif"),
        ("aux .txt", "_aux .txt"),
        ("lpt¹", "_lpt¹"),
        ("tab\there\n", "tab_here_"),
        ("caf\udce9", "caf_"),
        ("e\u0301", "\u00e9"),
        ("", "unnamed"),
        (" .. ", "unnamed"),
    ],
)
def test_what_a_system_forbids_is_replaced(given_name, legal):
    assert legal_name(given_name) == legal


def test_long_names_stay_apart():
    first, second = legal_name("塗" * 200 + "1"), legal_name("塗" * 200 + "2")
    assert first != second
    assert len(first.encode()) <= LONGEST_BYTES


@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_no_text_becomes_a_name_that_windows_forbids(text):
    name = legal_name(text)
    path = PureWindowsPath(name)
    assert path.parts == (name,)
    assert not path.drive
    assert not set(name) & set('<>:"/\\|?*')
    assert name == name.strip(". ")
    assert all(unicodedata.category(c)[0] != "C" for c in name)
    assert 0 < len(name.encode()) <= LONGEST_BYTES


@given(st.text(max_size=150))
def test_a_legal_name_is_its_own(text):
    assert legal_name(legal_name(text)) == legal_name(text)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="Python's own list of such names came with 3.13")
@given(st.text(max_size=300))
def test_windows_keeps_no_device_of_that_name(text):
    assert not ntpath.isreserved(legal_name(text))


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["x/a:1.png", "x/a?1.png"], ["x_a_1_png", "x_a_1_png_2"]),
        (["x/CON.png", "x/b.png"], ["_CON", "b"]),
        (["x/e\u0301.png", "y/\u00e9.png"], ["x_\u00e9", "y_\u00e9"]),
        (["x/" + "n" * 200 + ".png"], [legal_name("n" * 200)]),
    ],
)
def test_the_folders_of_results_have_legal_names(tmp_path, images, names):
    assert folder_names([Path(tmp_path, image) for image in images]) == names
