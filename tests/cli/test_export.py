from __future__ import annotations

from pathlib import Path

import pytest

from napari_bloodcell.cli import main as cli
from napari_bloodcell.results.store import write_result
from tests.results.test_store import a_result, an_image


@pytest.fixture
def result(tmp_path: Path) -> Path:
    return write_result(a_result(), tmp_path / "result", image=an_image())


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("a.geojson", b'{"type": "FeatureCollection"'),
        ("RoiSet.zip", b"PK"),
        ("a.csv", b"id,cell_type"),
        ("a.xlsx", b"PK"),
        ("a.json", b'{"info":'),
    ],
)
def test_the_ending_says_what_is_written(result: Path, name: str, begins: bytes) -> None:
    assert cli.main(["export", str(result), "-o", str(result.parent / "out" / name)]) == cli.DONE
    assert (result.parent / "out" / name).read_bytes().startswith(begins)
    assert sorted(p.name for p in (result.parent / "out").iterdir()) == [name]


def test_a_folder_holds_yolo_labels(result: Path) -> None:
    assert cli.main(["export", str(result), "-o", str(result.parent / "yolo")]) == cli.DONE
    lines = (result.parent / "yolo" / "labels" / "field 1.txt").read_text().splitlines()
    assert len(lines) == 6
    assert "  0: 'RBC'" in (result.parent / "yolo" / "data.yaml").read_text()


def test_fijis_columns_and_the_mark_are_on_request(result: Path) -> None:
    path = result.parent / "a.csv"
    assert cli.main(["export", str(result), "-o", str(path), "--fiji", "--bom"]) == cli.DONE
    assert path.read_text(encoding="utf-8").startswith("\ufeff ,Label,Area,X,Y,BX,BY,Width,Height\n1,1 RBC,")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "a.csv"], "at least one"),
        (["result", "-o", "a.doc"], "allowed are"),
        (["result", "result", "-o", "a.zip"], "holds one"),
        (["result", "result", "-o", "a.xlsx"], "the same name"),
        (["missing", "-o", "a.zip"], "holds no result"),
    ],
)
def test_what_cannot_be_exported_is_said(
    result: Path, words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(result.parent)
    assert cli.main(["export", *words]) == cli.WRONG_USE
    assert says in capsys.readouterr().err
