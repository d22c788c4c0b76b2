from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import shapely

from napari_bloodcell.core.cells import measure_cells, type_names
from napari_bloodcell.results.exchange.geojson import to_geojson


def area(ring: list[list[int]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def collection(cells: np.ndarray, types: list[str], **options: Any) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    table = measure_cells(cells)
    table["cell_type"] = pd.Series(types, index=table.index, dtype=object)
    return json.loads("".join(to_geojson(cells, table, type_names(types), **options)))["features"], table


def test_a_cell_has_its_place_type_colour_and_measurements() -> None:
    cells = np.zeros((10, 12), np.int32)
    cells[2:5, 3:8] = 1
    cells[6:9, 1:4] = 2
    features, _ = collection(cells, ["WBC", "band"])
    first = features[0]
    ring = first["geometry"]["coordinates"][0]
    assert first["geometry"]["type"] == "Polygon"
    assert sorted({tuple(p) for p in ring}) == [(3, 2), (3, 5), (8, 2), (8, 5)]
    assert first["properties"]["classification"] == {"name": "WBC", "color": [47, 179, 68]}
    assert first["properties"]["objectType"] == "detection"
    assert first["properties"]["measurements"] == {"Area px^2": 15, "Cells in region": 1}
    assert features[1]["properties"]["classification"]["name"] == "band"


def test_a_ring_keeps_its_hole_and_a_broken_cell_its_parts() -> None:
    cells = np.zeros((12, 20), np.int32)
    cells[1:8, 1:8] = 1
    cells[3:5, 3:5] = 0
    cells[1:4, 12:15] = 2
    cells[6:9, 15:18] = 2
    features, table = collection(cells, ["RBC", "RBC"])
    assert [f["geometry"]["type"] for f in features] == ["Polygon", "MultiPolygon"]
    assert len(features[0]["geometry"]["coordinates"]) == 2
    assert sum(area(ring) for ring in features[0]["geometry"]["coordinates"]) == table["area_px"][1]
    assert sum(area(r) for part in features[1]["geometry"]["coordinates"] for r in part) == table["area_px"][2]


def test_ids_are_the_same_for_the_same_image_and_others_for_another() -> None:
    cells = np.ones((3, 3), np.int32)
    ids = [collection(cells, ["RBC"], image_id=image)[0][0]["id"] for image in ("a", "a", "b")]
    assert ids[0] == ids[1] != ids[2]


def test_an_untyped_cell_has_no_classification_and_no_cells_give_an_empty_collection() -> None:
    features, _ = collection(np.ones((3, 3), np.int32), [""])
    assert "classification" not in features[0]["properties"]
    assert collection(np.zeros((3, 3), np.int32), [])[0] == []


def test_an_image_read_in_parts_has_the_same_features() -> None:
    rng = np.random.default_rng(0)
    cells = np.zeros((90, 90), np.int32)
    for i, (y, x) in enumerate(rng.integers(0, 80, (60, 2)), start=1):
        cells[y : y + 9, x : x + 7] = i
    whole, table = collection(cells, ["RBC"] * (len(np.unique(cells)) - 1))
    parts = collection(cells, table["cell_type"].tolist(), part_px=20)[0]
    assert len(whole) == len(table)
    assert sorted(parts, key=lambda f: int(f["properties"]["name"])) == whole


def test_shapely_reads_every_geometry_with_its_area() -> None:
    cells = np.random.default_rng(1).integers(0, 5, (40, 40)).astype(np.int32)
    features, table = collection(cells, ["RBC"] * 4)
    for feature in features:
        geometry = shapely.geometry.shape(feature["geometry"])
        assert geometry.is_valid
        assert geometry.area == table["area_px"][int(feature["properties"]["name"])]
