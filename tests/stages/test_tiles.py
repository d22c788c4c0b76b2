"""Cutting a plane into tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.stages.tiles import iter_tiles

sides = st.integers(1, 300)


@given(height=sides, width=sides, size=st.integers(1, 120), overlap=st.integers(0, 60))
def test_a_plane_that_is_split_and_placed_again_is_the_plane(height: int, width: int, size: int, overlap: int) -> None:
    if height * width > 400 * size * size:
        size = max(height, width) // 10 + 1
    plane = np.arange(height * width, dtype=np.int32).reshape(height, width)
    placed = np.full_like(plane, -1)
    times = np.zeros_like(plane)
    for tile in iter_tiles(plane.shape, size, overlap):
        y0, x0, y1, x1 = tile.core
        ry0, rx0, ry1, rx1 = tile.read
        part = plane[ry0:ry1, rx0:rx1]
        placed[y0:y1, x0:x1] = part[y0 - ry0 : y1 - ry0, x0 - rx0 : x1 - rx0]
        times[y0:y1, x0:x1] += 1
    assert np.array_equal(placed, plane)
    assert (times == 1).all()


def test_what_remains_at_the_right_and_bottom_edge_is_kept() -> None:
    cores = [tile.core for tile in iter_tiles((700, 1100), 512)]
    assert cores == [
        (0, 0, 512, 512),
        (0, 512, 512, 1024),
        (0, 1024, 512, 1100),
        (512, 0, 700, 512),
        (512, 512, 700, 1024),
        (512, 1024, 700, 1100),
    ]


def test_the_part_that_is_read_ends_at_the_edge_of_the_plane() -> None:
    first, second = iter_tiles((100, 180), 100, 20)
    assert first.read == (0, 0, 100, 120)
    assert second.read == (0, 80, 100, 180)


def test_tiles_are_named_by_row_and_column() -> None:
    names = [tile.name for tile in iter_tiles((40, 30), 10)]
    assert len(set(names)) == 12
    assert names[5] == "r01_c02"


def test_an_empty_plane_has_no_tiles() -> None:
    assert list(iter_tiles((0, 50), 10)) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (10, -1)])
def test_a_tile_without_size_is_an_error(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="size"):
        list(iter_tiles((10, 10), size, overlap))
