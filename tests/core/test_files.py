"""Every name becomes one that Linux, macOS and Windows take."""

from __future__ import annotations

import ntpath
import sys
import unicodedata
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.cli.folders import folder_names
from napari_bloodcell.core.files import LONGEST_BYTES, legal_name


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
