from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_bloodcell.core.cells import measure_cells, type_names
from napari_bloodcell.results.geojson import outlines, to_geojson


def area(ring: list[tuple[int, int]]) -> float:
    x, y = np.array(ring).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def collection(cells: np.ndarray, types: list[str], **options: Any) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    table = measure_cells(cells)
    table["cell_type"] = pd.Series(types, index=table.index, dtype=object)
    return json.loads("".join(to_geojson(cells, table, type_names(types), **options)))["features"], table


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_the_area_inside_the_outlines_is_that_of_the_mask(mask: np.ndarray) -> None:
    assert sum(area(ring) for ring in outlines(mask)) == mask.sum()


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_each_part_has_one_outline_and_each_ring_is_closed(mask: np.ndarray) -> None:
    rings = outlines(mask)
    assert sum(area(ring) > 0 for ring in rings) == ndimage.label(mask)[1]
    assert all(ring[0] == ring[-1] for ring in rings)
    for ring in rings:
        steps = np.diff(np.array(ring), axis=0)
        assert ((steps == 0).sum(axis=1) == 1).all()  # along the edges of pixels


def test_a_pixel_is_a_square_of_four_corners() -> None:
    assert outlines(np.ones((1, 1), bool)) == [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]]


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
