from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.stages.masks import (
    drop_slivers,
    fill_holes,
    filter_masks,
    intersection_area,
    overlapping_pairs,
    paint,
)


def disc(y: float, x: float, r: float, score: float = 0.9, cell_type: str | None = None) -> CellMask:
    y0, x0, y1, x1 = int(y - r), int(x - r), int(np.ceil(y + r)) + 1, int(np.ceil(x + r)) + 1
    yy, xx = np.mgrid[y0:y1, x0:x1]
    return CellMask((y0, x0, y1, x1), (yy - y) ** 2 + (xx - x) ** 2 <= r * r, score, score, score, (y, x), cell_type)


def test_of_two_repeated_masks_the_better_one_stays() -> None:
    worse, better = disc(50, 50, 15, 0.7), disc(51, 50, 15, 0.95)
    assert filter_masks([worse, better], rbc_diameter_px=30) == [better]


def test_a_nucleus_within_its_cell_goes() -> None:
    cell, nucleus = disc(60, 60, 30, 0.8), disc(60, 60, 12, 0.99)
    assert filter_masks([nucleus, cell], rbc_diameter_px=30) == [cell]


def test_a_platelet_on_a_red_cell_stays() -> None:
    cell, platelet = disc(60, 60, 15, cell_type="RBC"), disc(60, 66, 4, cell_type="platelet")
    assert len(filter_masks([cell, platelet], rbc_diameter_px=30)) == 2


def test_a_clump_goes_where_its_cells_are_there() -> None:
    a, b = disc(60, 60, 15), disc(60, 86, 15)
    mask = np.zeros((40, 60), bool)
    clump = CellMask((44, 44, 84, 104), mask, 0.99, 0.99, 0.99, (60, 73))
    for cell in (a, b):
        y0, x0, y1, x1 = cell.bbox
        mask[y0 - 44 : y1 - 44, x0 - 44 : x1 - 44] |= cell.mask
    assert filter_masks([clump, a, b], rbc_diameter_px=30) == [a, b]


def test_background_and_noise_go() -> None:
    background = CellMask((0, 0, 200, 200), np.ones((200, 200), bool), 1, 1, 1, (0, 0))
    speck = disc(20, 20, 1)
    assert filter_masks([background, speck], rbc_diameter_px=30) == []


def test_neighbours_that_overlap_a_little_both_stay() -> None:
    assert len(filter_masks([disc(60, 60, 15), disc(60, 82, 15)], rbc_diameter_px=30)) == 2


def test_the_pallor_belongs_to_the_cell() -> None:
    ring = disc(30, 30, 15)
    ring.mask[12:19, 12:19] = False
    assert fill_holes(ring).area > ring.area


def test_a_cell_is_one_piece_in_a_box_that_fits() -> None:
    cell = disc(30, 30, 15)
    torn = np.pad(cell.mask, ((0, 0), (0, 9)))
    torn[3:5, -3:] = True
    y0, x0, y1, x1 = cell.bbox
    [kept] = filter_masks([replace(cell, bbox=(y0, x0, y1, x1 + 9), mask=torn)], rbc_diameter_px=30)
    assert kept.bbox == cell.bbox
    np.testing.assert_array_equal(kept.mask, cell.mask)


def test_of_a_cell_that_another_cuts_in_two_the_larger_part_stays() -> None:
    bar = CellMask((0, 0, 5, 60), np.ones((5, 60), bool), 1, 1, 1, (2, 20))
    across = CellMask((0, 40, 5, 46), np.ones((5, 6), bool), 1, 1, 1, (2, 43))
    cells, _ = paint([bar, across], (5, 60))
    assert (cells[:, :40] == cells[2, 20]).all()
    assert not cells[:, 46:].any()


def test_no_masks_give_no_cells() -> None:
    cells, order = paint(filter_masks([], rbc_diameter_px=30), (5, 7))
    assert cells.shape == (5, 7)
    assert not cells.any()
    assert order.size == 0


def test_a_shared_pixel_goes_to_the_nearer_cell() -> None:
    cells, order = paint([disc(30, 30, 15), disc(30, 50, 15)], (70, 90))
    assert cells[30, 38] == cells[30, 30]
    assert cells[30, 42] == cells[30, 50]
    assert list(order) == [0, 1]


def test_a_mask_that_keeps_no_pixel_gets_no_id() -> None:
    hidden = CellMask((29, 29, 32, 32), np.zeros((3, 3), bool), 1, 1, 1, (30, 30))
    cells, order = paint([hidden, disc(30, 30, 8)], (60, 60))
    assert cells.max() == 1
    assert list(order) == [1]


@pytest.mark.parametrize(("y", "stays"), [(-11, False), (-5, True), (30, True)])
def test_a_sliver_at_the_edge_goes_and_a_slice_stays(y: int, *, stays: bool) -> None:
    whole = disc(y, 50, 15)
    top = max(0, -whole.bbox[0])
    seen = CellMask((whole.bbox[0] + top, *whole.bbox[1:]), whole.mask[top:], 1, 1, 1, (max(y, 1), 50))
    assert bool(drop_slivers([seen], (100, 100), rbc_diameter_px=30, visible_min=0.22)) is stays


def test_a_platelet_away_from_the_edge_is_no_sliver() -> None:
    platelet = disc(50, 50, 2)
    assert drop_slivers([platelet], (100, 100), rbc_diameter_px=30, visible_min=0.22) == [platelet]


boxes = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 30), st.integers(1, 30)).map(
        lambda t: (t[0], t[1], t[0] + t[2], t[1] + t[3])
    ),
    min_size=0,
    max_size=25,
)


@given(boxes)
def test_the_pairs_found_are_exactly_those_whose_boxes_share_pixels(
    given_boxes: list[tuple[int, int, int, int]],
) -> None:
    array = np.array(given_boxes, int).reshape(-1, 4)
    expected = {
        (i, j)
        for i, a in enumerate(given_boxes)
        for j, b in enumerate(given_boxes)
        if i < j and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    }
    assert set(zip(*(v.tolist() for v in overlapping_pairs(array)), strict=True)) == expected


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(3, 14)), max_size=12))
def test_painted_cells_are_dense_connected_and_within_their_masks(discs: list[tuple[int, int, int]]) -> None:
    masks = [disc(*d) for d in discs]
    cells, order = paint(masks, (100, 100))
    assert set(np.unique(cells)) - {0} == set(range(1, len(order) + 1))
    for label, i in enumerate(order, start=1):
        y0, x0, y1, x1 = masks[i].bbox
        allowed = np.zeros((100, 100), bool)
        visible = masks[i].mask[max(0, -y0) : 100 - y0, max(0, -x0) : 100 - x0]
        allowed[max(y0, 0) : y1, max(x0, 0) : x1] = visible
        own = cells == label
        assert not (own & ~allowed).any()
        assert ndimage.label(own, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize(("dx", "expected"), [(0, True), (40, False)])
def test_intersection_counts_shared_pixels(dx: int, *, expected: bool) -> None:
    assert (intersection_area(disc(30, 30, 10), disc(30, 30 + dx, 10)) > 0) is expected
