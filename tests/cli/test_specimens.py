"""`pool` and `analyse --specimen`."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
from PIL import Image

from napari_bloodcell.cli import batch
from napari_bloodcell.cli.main import main
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

DISCS = [(40, 40), (40, 110), (100, 60), (110, 140), (170, 40), (180, 110), (60, 180), (170, 180)]


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    models = batch.Models(ThresholdGenerator(), BrightnessClassifier())
    monkeypatch.setattr(batch, "load_models", lambda recipe, *, quiet=False: models)


def save(path: Path, n: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = disc_image(DISCS[:n], (220, 220), 12)
    image[0, 0] = n  # no two pictures are the same
    Image.fromarray(image).save(path)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    for folder, numbers in {"A": (4, 5, 6), "B": (7, 8)}.items():
        for n in numbers:
            save(tmp_path / folder / f"{folder}17_{n}.png", n)
    return tmp_path


def test_a_workbook_has_specimens_differential_and_images_as_numbers(smears: Path) -> None:
    out = smears / "out"
    flags = ("--no-overlay", "--no-kde", "--pixel-size-um", "0.3", "--rbc-diameter-px", "24", "-q")
    assert run("analyse", smears / "A", smears / "B", "-o", out, "--specimen", "folder", "--xlsx", *flags) == 0
    book = openpyxl.load_workbook(out / "counts.xlsx")
    assert book.sheetnames == ["specimens", "specimens' differential", "counts", "differential"]
    found = pd.read_excel(out / "counts.xlsx", sheet_name=None, engine="openpyxl")
    assert found["specimens"][["specimen", "n_fields", "RBC"]].values.tolist() == [["A", 3, 15], ["B", 2, 15]]
    assert found["specimens"]["RBC_per_mm2"].dtype == np.float64
    assert found["counts"]["RBC"].sum() == 30
    with zipfile.ZipFile(out / "counts.xlsx") as archive:  # where the comma stands is the reader's business
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
    per_mm2 = found["specimens"]["RBC_per_mm2"][0]
    assert f"<v>{per_mm2!r}</v>".replace("np.float64(", "").replace(")", "") in sheet


@pytest.mark.parametrize("by", ["folder", r"^([AB])\d+_"])
def test_specimens_are_told_by_folder_or_by_name(by: str, smears: Path) -> None:
    out = smears / "out"
    flags = ("--no-overlay", "--no-kde", "--pixel-size-um", "0.3", "--rbc-diameter-px", "24", "-q")
    assert run("analyse", smears / "A", smears / "B", "-o", out, "--specimen", by, *flags) == 0
    found = {row["specimen"]: row for row in rows(out / "specimens.csv")}
    assert {name: (row["n_fields"], row["RBC"]) for name, row in found.items()} == {"A": ("3", "15"), "B": ("2", "15")}
    assert (
        float(found["A"]["RBC_per_mm2_low"]) < float(found["A"]["RBC_per_mm2"]) < float(found["A"]["RBC_per_mm2_high"])
    )
    for name, row in found.items():
        numbers = json.loads((out / "specimens" / name / "specimen.json").read_text())
        fields = rows(out / "specimens" / name / "fields.csv")
        assert numbers["counts"]["RBC"] == int(row["RBC"]) == sum(int(field["RBC"]) for field in fields)
        assert numbers["edges"] == ["frame"]


def test_images_whose_names_do_not_match_are_named(smears: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = smears / "out"
    assert run("analyse", smears / "A", smears / "B", "-o", out, "--specimen", "A17", "--no-overlay", "--no-kde") == 0
    assert [row["specimen"] for row in rows(out / "specimens.csv")] == ["A17"]
    assert "nothing in the names of these images matches: B17_7, B17_8" in capsys.readouterr().err


def test_a_pattern_that_is_none_is_refused_before_anything_is_analysed(
    smears: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("analyse", smears / "A", "-o", smears / "out", "--specimen", "(") == 2
    assert "neither 'folder' nor a regular expression" in capsys.readouterr().err
    assert not (smears / "out").exists()


def test_results_are_pooled_afterwards_to_the_same_numbers(smears: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = smears / "out"
    run("analyse", smears / "A", "-o", out, "--specimen", "folder", "--no-overlay", "--no-kde")
    at_once = json.loads((out / "specimens" / "A" / "specimen.json").read_text())
    capsys.readouterr()
    assert run("pool", out, "-o", smears / "pooled", "--name", "A") == 0
    assert json.loads((smears / "pooled" / "specimen.json").read_text()) == at_once
    assert capsys.readouterr().out.startswith("A: 3 fields, RBC 15, WBC 0, platelet 0")
    one = out / "A17_4"
    assert run("pool", one, "--strict") == 1
    assert "one field only" in capsys.readouterr().err
    assert run("pool", one) == 0


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pool", tmp_path) == 2
    assert "holds no result" in capsys.readouterr().err
    assert run("pool") == 2


def test_an_empty_field_is_a_field(smears: Path) -> None:
    save(smears / "A" / "A17_9.png", 0)
    out = smears / "out"
    run("analyse", smears / "A", "-o", out, "--specimen", "folder", "--no-overlay", "--no-kde")
    numbers = json.loads((out / "specimens" / "A" / "specimen.json").read_text())
    assert len(numbers["fields"]) == 4
    assert numbers["counts"]["RBC"] == 15
    assert np.isfinite(numbers["per_mm2"]["RBC"]["low"]) if numbers["area_mm2"] else True


def test_each_image_or_each_specimen_gets_a_report(smears: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, flags = smears / "out", ("--no-overlay", "--no-kde", "-q", "--report", "--about", "Patient=4711")
    assert run("analyse", smears / "A", "-o", out, *flags) == 0
    assert sorted(path.parent.name for path in out.glob("*/report.html")) == ["A17_4", "A17_5", "A17_6"]
    assert run("analyse", smears / "A", "-o", smears / "again", "--specimen", "folder", *flags) == 0
    (page,) = (smears / "again").rglob("report.html")
    assert page.parent.name == "A"
    assert "4711" in page.read_text(encoding="utf-8")
    assert str(page) in capsys.readouterr().out


def test_a_pooled_specimen_gets_a_report_by_a_template_of_ones_own(smears: Path) -> None:
    run("analyse", smears / "A", "-o", smears / "out", "--no-overlay", "--no-kde", "-q")
    (smears / "own.html").write_text("{{ name }}: {{ n_fields }}")
    arguments = ("pool", smears / "out", "-o", smears / "pooled", "--name", "<S>", "--report", "--report-template")
    assert run(*arguments, smears / "own.html") == 0
    assert (smears / "pooled" / "report.html").read_text() == "&lt;S&gt;: 3"


@pytest.mark.parametrize(
    ("more", "message"), [(("--about", "Patient"), "as in 'Patient=4711'"), ((), "--report needs an --output folder")]
)
def test_a_report_that_cannot_be_made_is_refused(
    smears: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("analyse", smears / "A", "-o", smears / "out", "--no-overlay", "--no-kde", "-q")
    assert run("pool", smears / "out", "--report", *more) == 2
    assert message in capsys.readouterr().err
