"""What was changed in QuPath comes back. The files are of the form that QuPath 0.2 to 0.6 documents and writes."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from napari_bloodcell.cli import main as cli
from napari_bloodcell.core.cells import measure_cells, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.journal import Journal, place, standing
from napari_bloodcell.results.exchange.compare import Comparison
from napari_bloodcell.results.exchange.features import iter_features
from napari_bloodcell.results.exchange.geojson import to_geojson
from napari_bloodcell.results.store import read_result, write_result
from napari_bloodcell.slides.imported import Imported, import_cells
from tests.results.test_store import a_result, an_image

Content = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A result of six cells, of which the second is a neutrophil."""
    result = a_result()
    table = result.table.assign(subtype="", subtype_probability=np.nan)
    table.loc[2, ["subtype", "subtype_probability"]] = "neutrophil", 0.9
    return write_result(replace(result, rows=table), tmp_path / "result", image=an_image(), geojson=True)


def exported(folder: Path) -> Content:
    content: Content = json.loads((folder / "cells.geojson").read_text(encoding="utf-8"))
    return content


def feature_of(content: Content, cell: int) -> Content:
    return next(f for f in content["features"] if f["properties"]["name"] == str(cell))


def square(y0: float, x0: float, y1: float, x1: float) -> Content:
    return {"type": "Polygon", "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]}


def drawn(geometry: Content, name: str = "", **properties: object) -> Content:
    about: Content = {"objectType": "annotation", **properties}
    if name:
        about["classification"] = {"name": name, "color": [1, 2, 3]}
    return {"type": "Feature", "id": "b0b0b0b0-1111-4222-8333-444444444444", "geometry": geometry, "properties": about}


def back(folder: Path, content: object, **options: Any) -> Imported:
    path = folder.parent / "from_qupath.geojson"
    path.write_text(json.dumps(content), encoding="utf-8")
    return import_cells(folder, path, annotator="Ada", journal=Journal(folder.parent / "journal"), **options)


def test_a_file_that_nobody_changed_changes_nothing(folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    found = back(folder, exported(folder))
    assert found.n_same == 6
    assert found.corrections == []
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_a_cell_that_was_reclassified_has_that_type_and_a_correction(folder: Path) -> None:
    content = exported(folder)
    feature_of(content, 1)["properties"]["classification"] = {"name": "WBC", "color": [1, 2, 3]}
    found = back(folder, content)
    result = read_result(folder)
    assert (found.n_same, found.n_retyped) == (5, 1)
    assert result.table.loc[1, ["cell_type", "type_source"]].tolist() == ["WBC", "user"]
    assert result.counts["WBC"] == 3
    (correction,) = Journal(folder.parent / "journal").read(result.image_sha256)
    assert (correction.cell, correction.from_type, correction.to_type) == (1, "RBC", "WBC")
    assert (correction.annotator, correction.model_type) == ("Ada", "RBC")


@pytest.mark.parametrize("written", [{"name": "WBC: lymphocyte"}, {"names": ["WBC", "lymphocyte"]}])
def test_another_kind_of_white_cell_is_said_by_a_person(folder: Path, written: Content) -> None:
    content = exported(folder)
    assert feature_of(content, 2)["properties"]["classification"]["name"] == "WBC: neutrophil"
    feature_of(content, 2)["properties"]["classification"] = written
    found = back(folder, content)
    row = read_result(folder).table.loc[2]
    assert row[["cell_type", "subtype", "subtype_source"]].tolist() == ["WBC", "lymphocyte", "user"]
    assert found.corrections[0].said == "WBC: lymphocyte"
    assert found.corrections[0].from_subtype == "neutrophil"


def test_a_class_of_ones_own_comes_back_with_its_code(folder: Path) -> None:
    content = exported(folder)
    feature_of(content, 2)["properties"]["classification"] = {"name": "blast", "color": [9, 9, 9]}
    back(folder, content)
    result = read_result(folder)
    assert result.table.loc[2, ["cell_type", "subtype"]].tolist() == ["blast", ""]
    assert (np.asarray(result.types)[result.cells == 2] == 1 + result.names.index("blast")).all()


def test_a_cell_that_was_edited_has_the_new_outline_and_its_type_is_confirmed(folder: Path) -> None:
    content = exported(folder)
    feature_of(content, 3)["geometry"] = square(2.3, 35.2, 9.7, 50.2)
    found = back(folder, content)
    result = read_result(folder)
    ys, xs = np.nonzero(result.cells == 3)
    assert found.n_edited == 1
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (2, 9, 35, 49)
    assert result.table["area_px"][3] == len(ys) == 8 * 15
    (correction,) = found.corrections
    assert correction.mask.all()
    assert correction.area == 120
    assert correction.from_type == correction.to_type == "band"


def test_a_cell_that_was_deleted_is_gone_and_stays_so(folder: Path) -> None:
    before = read_result(folder)
    content = exported(folder)
    content["features"].remove(feature_of(content, 4))
    found = back(folder, content)
    result = read_result(folder)
    assert found.n_deleted == 1
    assert 4 not in result.table.index
    assert not (result.cells == 4).any()
    assert (found.corrections[0].is_deleted, found.corrections[0].area) == (True, before.table["area_px"][4])
    placed = place(standing(found.corrections), before.cells)
    assert (placed.found, placed.lost) == ({}, [])


def test_an_annotation_with_a_class_is_a_cell_that_was_drawn(folder: Path) -> None:
    content = exported(folder)
    content["features"].append(drawn(square(40, 60, 52, 71), "platelet"))
    found = back(folder, content)
    result = read_result(folder)
    assert found.n_drawn == 1
    assert result.table.loc[7, ["cell_type", "area_px"]].tolist() == ["platelet", 132]
    assert (result.cells[40:52, 60:71] == 7).all()
    assert (found.corrections[0].from_type, found.corrections[0].to_type) == ("", "platelet")


def test_what_has_no_id_of_ours_is_found_by_its_overlap(folder: Path) -> None:
    content = exported(folder)
    for i, feature in enumerate(content["features"]):
        feature["id"], feature["properties"]["name"] = f"new-{i}", None
    feature_of_first = content["features"][0]
    feature_of_first["properties"]["classification"]["name"] = "WBC"
    found = back(folder, content)
    assert (found.n_same, found.n_retyped, found.n_drawn, found.n_deleted) == (5, 1, 0, 0)


def test_a_renamed_cell_is_known_by_its_id(folder: Path) -> None:
    content = exported(folder)
    feature_of(content, 5)["properties"]["name"] = "look at this"
    assert back(folder, content).n_same == 6


def test_annotations_without_a_class_and_large_ones_are_regions(folder: Path) -> None:
    content = exported(folder)
    content["features"] += [drawn(square(0, 0, 30, 30)), drawn(square(5, 5, 60, 90), "Region*")]
    found = back(folder, content)
    assert len(found.regions) == 2
    assert found.n_drawn == 0


def test_cells_keep_what_a_drawn_one_overlaps_and_one_on_another_is_left_out(folder: Path) -> None:
    before = read_result(folder).cells.copy()
    content = exported(folder)
    content["features"] += [drawn(square(4, 4, 8, 8), "RBC"), drawn(square(0, 0, 14, 8), "WBC")]
    found = back(folder, content)
    cells = read_result(folder).cells
    assert (found.n_left_out, found.n_drawn) == (1, 1)
    assert np.array_equal(np.where(cells > 6, 0, cells), before)


def test_an_export_of_a_few_objects_deletes_nothing_unless_told_so(folder: Path) -> None:
    content = exported(folder)
    content["features"] = content["features"][:2]
    with pytest.raises(InputError, match="4 of 6 cells are not in the file"):
        back(folder, content)
    assert back(folder, content, delete_missing=False).n_deleted == 0
    assert back(folder, content, delete_missing=True).n_deleted == 4


def test_points_and_lines_are_told_and_left_out(folder: Path) -> None:
    content = exported(folder)
    content["features"].append(drawn({"type": "Point", "coordinates": [3, 4]}, "RBC"))
    found = back(folder, content)
    assert (found.n_left_out, found.n_same) == (1, 6)


def test_arrays_single_features_and_compressed_files_are_read(folder: Path, tmp_path: Path) -> None:
    content = exported(folder)
    (tmp_path / "array.json").write_text(json.dumps(content["features"], indent=3), encoding="utf-8-sig")
    (tmp_path / "one.geojson").write_text(json.dumps(content["features"][0]))
    (tmp_path / "all.geojson.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("all.geojson", json.dumps(content))
    numbers = {name: len(list(iter_features(tmp_path / name))) for name in ("array.json", "all.geojson.gz", "all.zip")}
    assert numbers == {"array.json": 6, "all.geojson.gz": 6, "all.zip": 6}
    assert next(iter_features(tmp_path / "one.geojson")).name == "1"


@pytest.mark.parametrize("text", ["", "{", '{"features": [', '{"features": [1]}', "[{}]", '[{"type": "Feature"'])
def test_what_is_no_geojson_is_an_input_error_and_changes_nothing(folder: Path, text: str) -> None:
    path = folder.parent / "bad.geojson"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.geojson is no intact GeoJSON"):
        import_cells(folder, path, annotator="Ada", journal=Journal(folder.parent / "journal"))


def test_the_command_says_what_came_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = exported(folder)
    feature_of(content, 1)["properties"]["classification"]["name"] = "WBC"
    content["features"].pop()
    (tmp_path / "back.geojson").write_text(json.dumps(content))
    words = ["import", str(folder), str(tmp_path / "back.geojson"), "--journal", str(tmp_path / "j.jsonl"), "-q"]
    assert cli.main(words) == cli.DONE
    assert "4 unchanged, 1 retyped, 1 deleted" in capsys.readouterr().out
    assert len(Journal(tmp_path / "j.jsonl").read()) == 2


@pytest.mark.slow
def test_ten_thousand_cells_go_out_and_come_back_without_loss(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    cells = np.zeros((2200, 2200), np.int32)
    yy, xx = np.mgrid[:22, :22]
    for i in range(10_000):
        y, x = 22 * (i // 100), 22 * (i % 100)
        ry, rx = rng.uniform(3, 10, 2)
        own = ((yy - 10.5) / ry) ** 2 + ((xx - 10.5) / rx) ** 2 <= 1
        cells[y : y + 22, x : x + 22][own & (rng.random((22, 22)) < 0.97)] = i + 1  # with holes and loose pixels
    table = measure_cells(cells)
    table["cell_type"] = rng.choice(["RBC", "WBC", "platelet"], len(table)).astype(object)
    table["subtype"] = np.where(table["cell_type"] == "WBC", "neutrophil", "")
    table["probability"] = rng.random(len(table))
    with (tmp_path / "cells.geojson").open("w") as file:
        file.writelines(to_geojson(cells, table, type_names(), image_id="x"))
    compared = Comparison(cells, table, image_id="x", rbc_diameter_px=20.0)
    assert list(compared.add(iter_features(tmp_path / "cells.geojson")))[-1] == len(table) == 10_000
    changes = compared.finish(delete_missing=None)
    assert (changes.n_same, changes.retyped, changes.outlines, changes.missing) == (10_000, {}, [], [])
    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    told = [feature["properties"] for feature in features]
    rows = table.loc[[int(one["name"]) for one in told]]
    for column, name in (("area_px", "Area px^2"), ("probability", "Probability")):
        assert [one["measurements"][name] for one in told] == rows[column].tolist()
    shown = {"RBC": ("RBC", "#e0312f"), "WBC": ("WBC: neutrophil", "#2fb344"), "platelet": ("platelet", "#f5a524")}
    for one, cell_type in zip(told, rows["cell_type"], strict=True):
        name, colour = shown[cell_type]
        assert one["classification"] == {"name": name, "color": list(bytes.fromhex(colour[1:]))}
    outlines = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    assert shapely.is_valid(outlines).all()
    assert shapely.area(outlines).tolist() == rows["area_px"].tolist()
