from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from napari_bloodcell.core.outlines import Ring, box_of_rings, fill, iter_polygons, polygons_of, signed_area

LABELS = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))
MASKS = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))


def corners(ring: Ring) -> np.ndarray:
    return np.reshape(ring, (-1, 2))


@given(LABELS)
def test_what_the_outlines_of_each_cell_enclose_is_the_cell(cells: np.ndarray) -> None:
    found = dict(iter_polygons(cells))
    assert sorted(found) == np.unique(cells[cells > 0]).tolist() == list(found)
    for label, pieces in found.items():
        rings = [ring for piece in pieces for ring in piece]
        assert np.array_equal(fill(rings, (0, 0, *cells.shape)), cells == label)
        assert sum(map(signed_area, rings)) == (cells == label).sum()


@given(MASKS)
def test_each_piece_has_one_outline_and_its_holes_run_the_other_way(mask: np.ndarray) -> None:
    pieces = polygons_of(mask)
    assert len(pieces) == ndimage.label(mask)[1]
    assert all(signed_area(piece[0]) > 0 and all(signed_area(hole) < 0 for hole in piece[1:]) for piece in pieces)
    for ring in [ring for piece in pieces for ring in piece]:
        assert ((np.diff(corners(ring), axis=0) == 0).sum(axis=1) == 1).all()  # along the edges of pixels
        assert ring[:2] == ring[-2:]


@given(MASKS)
def test_every_outline_is_a_valid_polygon(mask: np.ndarray) -> None:
    pieces = [(corners(piece[0]), [corners(hole) for hole in piece[1:]]) for piece in polygons_of(mask)]
    assert all(shapely.Polygon(*piece).is_valid for piece in pieces)
    assert shapely.MultiPolygon(pieces).is_valid
    assert shapely.MultiPolygon(pieces).area == mask.sum()


def test_a_pixel_is_a_square_of_four_corners_where_its_part_begins() -> None:
    assert list(iter_polygons(np.full((1, 1), 7), (5, 3))) == [(7, [[[3, 5, 4, 5, 4, 6, 3, 6, 3, 5]]])]


def test_an_outline_across_pixels_takes_those_whose_middle_it_encloses() -> None:
    triangle = [[0.2, 0.1], [4.0, 0.1], [0.2, 4.1]]
    mask = fill([triangle], (0, 0, 5, 5))
    inside = shapely.contains_xy(shapely.Polygon(triangle), *np.meshgrid(np.arange(5) + 0.5, np.arange(5) + 0.5))
    assert np.array_equal(mask, inside)


def test_an_outline_outside_of_the_image_is_cut_off() -> None:
    ring = [[-3.0, -3.0], [2.5, -3.0], [2.5, 2.2], [-3.0, 2.2]]
    assert box_of_rings([ring], (10, 10)) == (0, 0, 3, 3)
    assert fill([ring], (0, 0, 3, 3)).tolist() == [[True, True, False]] * 2 + [[False] * 3]
