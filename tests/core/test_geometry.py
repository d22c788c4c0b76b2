from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.core.geometry import (
    CROSS,
    Box,
    box_of_mask,
    grown,
    largest_part,
    shared_box,
    slices_of,
    union_of,
)

SHAPE = (30, 40)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    y0, x0 = draw(st.integers(0, 28)), draw(st.integers(0, 38))
    return y0, x0, draw(st.integers(y0 + 1, 30)), draw(st.integers(x0 + 1, 40))


def painted(*some: Box) -> np.ndarray:
    plane = np.zeros(SHAPE, int)
    for box in some:
        plane[slices_of(box)] += 1
    return plane


@given(boxes(), boxes())
def test_the_shared_box_has_the_pixels_that_both_have(a: Box, b: Box) -> None:
    shared = shared_box(a, b)
    assert shared == box_of_mask(painted(a, b) == 2)


@given(boxes(), boxes())
def test_the_union_is_the_smallest_box_around_both(a: Box, b: Box) -> None:
    assert union_of([a, b]) == box_of_mask(painted(a, b) > 0)


@given(boxes(), st.integers(0, 9))
def test_a_grown_box_stays_in_the_plane_and_has_the_margin_elsewhere(box: Box, margin: int) -> None:
    y0, x0, y1, x1 = grown(box, margin, SHAPE)
    assert (y0, x0) == (max(box[0] - margin, 0), max(box[1] - margin, 0))
    assert (y1, x1) == (min(box[2] + margin, SHAPE[0]), min(box[3] + margin, SHAPE[1]))


@given(boxes(), boxes())
def test_a_box_is_found_in_a_window_that_begins_elsewhere(window: Box, box: Box) -> None:
    shared = shared_box(window, box)
    if shared is not None:
        part = painted(box)[slices_of(window)]
        assert part[slices_of(shared, window[:2])].all()
        assert box_of_mask(part > 0, window[:2]) == shared


def test_an_empty_mask_has_no_box() -> None:
    assert box_of_mask(np.zeros((3, 4), bool)) is None


def test_pixels_that_touch_at_a_corner_are_one_part_unless_only_sides_count() -> None:
    mask = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 1]], bool)
    assert largest_part(mask) is mask
    assert largest_part(mask, CROSS).sum() == 2
    mask[2, 1] = True
    assert largest_part(mask, CROSS).sum() == 3
