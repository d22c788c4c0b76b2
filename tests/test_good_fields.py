"""Of a good field nothing is said: a false alarm is a fault as much as silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import napari_bloodcell as nb
from napari_bloodcell.cli import main as cli

if TYPE_CHECKING:
    from pathlib import Path

FIELDS = {
    "HS1": "smears/HS1/images/HS1_r00_c00.jpg",
    "HS2": "smears/HS2/images/HS2_r00_c00.jpg",
    "PBC": "txl_pbc/images/val/02706fbf-6d7d-5dfb-8d60-bdcad7ac1339.jpg",
    "Raabin-WBC": "txl_pbc/images/val/00dae381-fd8c-5369-ab10-be3e7ef84b2b.jpg",
    "BCCD": "txl_pbc/images/val/03268486-3908-5ee2-813d-356b854dd0af.jpg",
    "BCD": "txl_pbc/images/val/0254dbc1-2cdb-5660-9638-0e96c5330a83.jpg",
    "Chula": "chula/images/1.jpg",
    "IML-Malaria": "iml_malaria/PA171690.jpg",
    "BBBC041": "bbbc041/002f20ad-2ace-499c-9335-c9080bc3e6b5.jpg",
    "grey red cells": "bbbc041/1f8f08ea-b5b3-4f68-94d4-3cc071b7dce8.jpg",
}


@pytest.mark.parametrize("laboratory", FIELDS)
def test_nothing_is_said_of_a_good_field(laboratory: str, shared_data: Path) -> None:
    assert nb.analyse(shared_data / FIELDS[laboratory]).warnings == ()


@pytest.mark.slow
def test_a_run_of_the_demo_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["demo", "-q", "--format", "tiff", "-o", str(tmp_path)]) == cli.DONE
    assert capsys.readouterr().err == ""
