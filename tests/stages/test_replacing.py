from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_bloodcell.core.cells import centroids_of, measure_cells
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.core.progress import drain
from napari_bloodcell.stages.replacing import replace_cells
from napari_bloodcell.stages.segment import NOT_REACHED, iter_segment, segment
from tests.fakes import ThresholdGenerator, disc_image

CENTRES = [(30, 30), (30, 100), (90, 64), (64, 128), (128, 128), (128, 40), (150, 90), (20, 160), (100, 170)]
PARAMS = SegmentParams(rbc_diameter_px=24, tile_size=64)


def field() -> np.ndarray:
    return disc_image(CENTRES, (190, 200))


def squares(*corners: tuple[int, int], side: int = 10, shape: tuple[int, int] = (60, 60)) -> np.ndarray:
    cells = np.zeros(shape, np.int32)
    for i, (y, x) in enumerate(corners, start=1):
        cells[y : y + side, x : x + side] = i
    return cells


def test_a_region_holds_the_cells_whose_prompt_lies_in_it_whole() -> None:
    found = drain(iter_segment(field(), params=PARAMS, generator=ThresholdGenerator(), region=(0, 0, 80, 110)))
    assert sorted(centroids_of(found.table).tolist()) == [[30.0, 30.0], [30.0, 100.0]]
    assert (found.table["area_px"] == 441).all()


def test_a_region_outside_of_the_image_is_an_error_that_tells_its_size() -> None:
    with pytest.raises(InputError, match="190 × 200"):
        drain(iter_segment(field(), params=PARAMS, generator=ThresholdGenerator(), region=(500, 0, 600, 50)))


@given(y=st.integers(0, 189), x=st.integers(0, 199), tile_size=st.integers(64, 300))
@settings(max_examples=20)
def test_four_regions_around_any_point_hold_what_the_whole_image_holds(y: int, x: int, tile_size: int) -> None:
    image = field()
    params = SegmentParams(rbc_diameter_px=24, tile_size=tile_size)
    whole = segment(image, params=params, generator=ThresholdGenerator())
    cells, table = np.zeros_like(whole.cells), whole.table.iloc[:0]
    for box in ((0, 0, y, x), (0, x, y, 200), (y, 0, 190, x), (y, x, 190, 200)):
        if box[2] > box[0] and box[3] > box[1]:
            part = drain(iter_segment(image, params=params, generator=ThresholdGenerator(), region=box))
            cells, table = replace_cells(cells, table, part.cells, part.table, within=box)
    assert sorted(centroids_of(table).tolist()) == sorted(centroids_of(whole.table).tolist())
    assert ((cells > 0) == (whole.cells > 0)).all()


def test_stopping_keeps_the_tiles_that_were_done_and_names_the_others() -> None:
    asked = iter([False, False, True])
    work = iter_segment(field(), params=PARAMS, generator=ThresholdGenerator(), should_stop=lambda: next(asked))
    result = drain(work)
    assert 0 < len(result.table) < len(CENTRES)
    assert len(result.failed_tiles) == 12 - 3
    assert {tile.error for tile in result.failed_tiles} == {NOT_REACHED}


def test_cells_outside_of_the_region_keep_their_ids() -> None:
    old, new = squares((0, 0), (0, 30), (40, 40)), squares((2, 2))
    cells, table = replace_cells(old, measure_cells(old), new, measure_cells(new), within=(0, 0, 20, 20))
    assert sorted(table.index) == [2, 3, 4]
    assert cells[5, 5] == 4
    assert cells[5, 35] == 2
    assert cells[45, 45] == 3


def test_cells_of_tiles_that_were_not_reached_stay() -> None:
    old, new = squares((0, 0), (0, 30)), squares((1, 1))
    _, table = replace_cells(old, measure_cells(old), new, measure_cells(new), except_in=[(0, 20, 60, 60)])
    assert sorted(table.index) == [2, 3]


def test_a_cell_that_is_there_already_is_not_added_twice() -> None:
    old, new = squares((0, 15)), squares((0, 16))
    cells, table = replace_cells(old, measure_cells(old), new, measure_cells(new), within=(0, 0, 20, 18))
    assert list(table.index) == [1]
    assert (cells == old).all()


def test_a_new_cell_loses_what_a_neighbour_has() -> None:
    old, new = squares((0, 20)), squares((0, 13))
    cells, table = replace_cells(old, measure_cells(old), new, measure_cells(new), within=(0, 0, 20, 20))
    assert table["area_px"].to_dict() == {1: 100, 2: 70}
    assert (np.bincount(cells.ravel())[1:] == [100, 70]).all()


def test_a_type_set_by_hand_goes_on_to_the_cell_in_its_place() -> None:
    old, new = squares((0, 0), (0, 30)), squares((1, 1), (0, 30))
    table = measure_cells(old)
    table["cell_type"], table["probability"] = ["WBC", "RBC"], [1.0, 0.9]
    table["type_source"] = ["user", "model"]
    _, merged = replace_cells(old, table, new, measure_cells(new))
    assert merged["cell_type"].tolist() == ["WBC", ""]
    assert merged["type_source"].tolist() == ["user", "model"]


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=20)
def test_labels_and_table_agree_whatever_is_replaced(y: int, x: int) -> None:
    old, new = squares((0, 0), (0, 30), (40, 40), (30, 0)), squares((5, 5), (0, 28), (42, 38), (20, 20))
    cells, table = replace_cells(old, measure_cells(old), new, measure_cells(new), within=(0, 0, y, x))
    areas = np.bincount(cells.ravel(), minlength=int(table.index.max()) + 1)
    assert sorted(np.flatnonzero(areas[1:]) + 1) == sorted(table.index)
    assert (areas[table.index] == table["area_px"]).all()
