from __future__ import annotations

import base64
import io
import json
import re
import time
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import napari_bloodcell as nb
from napari_bloodcell.core.errors import InputError, ResultWarning
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.corrections.journal import Journal
from napari_bloodcell.results.specimens.report import PER_CLASS, report, write_report
from napari_bloodcell.results.specimens.specimen import Specimen, pool
from tests.fakes import BrightnessClassifier, ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("neutrophil", "lymphocyte", "erythroblast")


def field(number: int, n_side: int = 5) -> NDArray[np.uint8]:
    """A field of red cells in rows; no two fields are the same."""
    centres = [(30.0 + 44 * y, 30.0 + 44 * x) for y in range(n_side) for x in range(n_side)]
    image = disc_image(centres, (44 * n_side + 20, 44 * n_side + 20), 13)
    image[0, 0] = number % 200 + 1
    return image


def made(folder: Path, number: int) -> Path:
    """A result on disk, some of whose cells are white cells of known kinds."""
    recipe = nb.Recipe(segment=nb.SegmentParams(pixel_size_um=0.28, rbc_diameter_px=26))
    image = field(number)
    found = nb.analyse(image, recipe=recipe, generator=ThresholdGenerator(), classifier=BrightnessClassifier())
    table = found.table.copy()
    rows = table.index[:3]
    table.loc[rows, "cell_type"], table.loc[rows, "subtype"] = "WBC", list(KINDS)
    table["probability"] = np.linspace(0.4, 0.99, len(table))
    found = replace(found, rows=table, known_counting=None, image_name=f"field{number}")
    return Path(nb.write_result(found, folder / f"field{number}", image=image))


def pooled(*folders: Path, name: str = "S 17") -> Specimen:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResultWarning)
        return pool(folders, name=name)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("results")
    return [made(folder, number) for number in range(2)]


@pytest.fixture(scope="module")
def page(results: list[Path]) -> str:
    return report(pooled(*results), about={"Patient": "4711 <b>&"})


class Cells(HTMLParser):
    """Collects the text of table cells, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, _attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data.strip()

    def row(self, name: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == name)


def test_the_numbers_of_a_single_field_are_those_of_its_counts_json(results: list[Path]) -> None:
    numbers = json.loads((results[0] / "counts.json").read_text())
    cells = Cells(report(pooled(results[0])))
    for name, n in numbers["counts"].items():
        assert cells.row(name)[1] == f"{n:,}"
    low, high = numbers["rbc_interval_95"]
    assert cells.row("RBC")[2] == f"{low:,}–{high:,}"
    for kind, row in numbers["differential"].items():
        assert cells.row(kind)[1] == str(row["n"])


def test_the_numbers_of_a_specimen_are_the_sums_over_its_fields(results: list[Path], page: str) -> None:
    each = [json.loads((folder / "counts.json").read_text()) for folder in results]
    cells = Cells(page)
    for name in each[0]["counts"]:
        assert cells.row(name)[1] == f"{sum(one['counts'][name] for one in each):,}"
    for number, one in enumerate(each):
        assert cells.row(f"field{number}")[1] == str(one["counts"]["RBC"])


def test_kinds_come_in_the_order_of_a_differential(page: str) -> None:
    places = [page.index(f"<td>{kind}</td>") for kind in KINDS]
    assert places == sorted(places)


def test_the_page_needs_no_network_and_is_small(page: str) -> None:
    bare = re.sub(r"base64,[^\"]*", "", page)
    assert not re.findall(r"https?://|src=\"(?!data:)|<script|<link|@import|url\(", bare)
    assert len(page.encode()) <= 3_000_000


def test_what_the_user_entered_is_there_and_escaped_and_nothing_else_is_guessed(page: str, results: list[Path]) -> None:
    assert Cells(page).row("Patient")[1] == "4711 <b>&"
    assert "4711 &lt;b&gt;&amp;" in page
    assert "Patient" not in report(pooled(*results))


def test_what_a_report_must_say_is_there(page: str, results: list[Path]) -> None:
    record = json.loads((results[0] / "recipe.json").read_text())
    words = ("research use", "signature", "SHA-256", record["packages"]["numpy"], "tile_size", "Fields", "<details>")
    for word in (*words, *(model["sha256"] for model in record["models"].values())):
        assert word in page, word


def test_cells_are_shown_least_certain_first_and_all_abnormal_ones(results: list[Path], page: str) -> None:
    table = pooled(*results).results[0].table
    titles = [re.findall(r'title="(field\d), cell (\d+)"', part) for part in page.split("<h3>")[1:]]
    names = [part.split(":")[0] for part in page.split("<h3>")[1:]]
    shown = dict(zip(names, titles, strict=True))
    assert len(shown["RBC"]) == PER_CLASS
    red = table[table["cell_type"] == "RBC"].sort_values("probability")
    assert shown["RBC"][0][1] == str(red.index[0])
    assert len(shown["erythroblast"]) == 2  # of both fields
    (first, *_) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert Image.open(io.BytesIO(base64.b64decode(first))).size == (72, 87)


def test_every_cell_that_a_person_marked_as_abnormal_is_shown(results: list[Path]) -> None:
    specimen = pooled(*results)
    table = specimen.results[0].table.copy()
    marked = table.index[table["cell_type"] == "RBC"]
    table.loc[marked, "abnormal"] = True
    marked_ones = replace(specimen, results=(replace(specimen.results[0], rows=table), specimen.results[1]))
    page = report(marked_ones)
    part = next(part for part in page.split("<h3>") if part.startswith("marked as abnormal"))
    shown = re.findall(r'title="field0, cell (\d+)"', part)
    assert sorted(map(int, shown)) == sorted(marked.tolist())
    assert f"marked as abnormal: {len(marked)} of {len(marked)}" in part
    assert "marked as abnormal" not in report(specimen)


def test_the_same_result_gives_the_same_bytes(results: list[Path], page: str) -> None:
    assert report(pooled(*results), about={"Patient": "4711 <b>&"}) == page


def test_warnings_stand_on_the_page(results: list[Path]) -> None:
    assert "one field only" in report(pooled(results[0]))


def test_who_reviewed_and_audited_is_told_with_the_agreement(results: list[Path], tmp_path: Path) -> None:
    specimen = pooled(*results)
    result = specimen.results[0]
    journal = Journal(tmp_path / "journal.jsonl")
    for who, to in (("Ada", "WBC"), ("Ben", "RBC")):
        for cell in (4, 5):
            row = result.table.loc[cell]
            box = tuple(int(row[name]) for name in ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1"))
            what = {"audit": "first", "audit_type": "RBC", "audit_cells": 22, "when": "2026-11-02T10:00:00.000+00:00"}
            what |= {"annotator": who, "image_sha256": result.image_sha256, "from_type": "RBC"}
            said = to if cell == 4 else "RBC"
            journal.append(Correction.of_cell(np.asarray(result.cells), cell, box, to_type=said, **what))
    cells = Cells(report(specimen, journal=journal))
    assert cells.row("reviewed by Ada")[1] == "2 cells, 1 changed, 2026-11-02"
    assert cells.row("audit first, Ada")[1].startswith("right 1 of 2, 50.0 %")
    assert cells.row("two readers of it")[1].startswith("Ada and Ben: κ = 0.00")


def test_results_without_pixels_have_no_pictures_and_say_so(results: list[Path]) -> None:
    specimen = pooled(*results)
    bare = replace(specimen, results=tuple(replace(one, folder=None) for one in specimen.results))
    assert "no pictures" in report(bare)
    images = {name: field(number) for number, name in enumerate(specimen.field_names)}
    assert len(re.findall("image/jpeg", report(bare, images=images))) > PER_CLASS


def test_a_laboratory_replaces_the_template_or_a_block_of_it(results: list[Path], tmp_path: Path) -> None:
    own = tmp_path / "own.html"
    own.write_text('{% extends "report.html" %}{% block head %}<h1>Laboratory of {{ name }}</h1>{% endblock %}')
    page = report(pooled(*results, name="A & B"), template=own)
    assert "<h1>Laboratory of A &amp; B</h1>" in page
    assert "Counts" in page
    own.write_text("{{ nothing_like_it }}")
    with pytest.raises(InputError, match="nothing_like_it"):
        write_report(pooled(*results), tmp_path / "page.html", template=own)
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(InputError, match="cannot be used"):
        report(pooled(*results), template=tmp_path / "missing.html")


@pytest.mark.slow
@pytest.mark.alone
def test_two_hundred_fields_are_reported_in_five_seconds(results: list[Path]) -> None:
    specimen = pooled(*results)
    fields = specimen.results  # counted when they were pooled
    many = tuple(replace(fields[i % 2], known_counting=fields[i % 2].counting) for i in range(200))
    large = replace(specimen, results=many, field_names=tuple(f"f{i}" for i in range(200)))
    start = time.process_time()
    page = report(large)
    assert time.process_time() - start < 5
    assert len(page.encode()) <= 3_000_000
