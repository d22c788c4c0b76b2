"""Joining cells across the borders of tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_bloodcell.stages.stitch import join_tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (150, 190)


def discs(*circles: tuple[float, float, float], shape: tuple[int, int] = SHAPE) -> NDArray[np.int32]:
    """A label image of discs (y, x, radius); pixels that several claim go to the nearest one."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    depth = np.stack([np.zeros(shape), *(r - np.hypot(yy - y, xx - x) for y, x, r in circles)])
    return depth.argmax(0).astype(np.int32)


def spread_discs(seed: int, *, gap: float) -> NDArray[np.int32]:
    """Discs of 6 to 17 px radius at random places, at least `gap` apart."""
    rng = np.random.default_rng(seed)
    found: list[tuple[float, float, float]] = []
    for _ in range(80):
        y, x, r = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1]), rng.uniform(6, 17)
        if all(np.hypot(y - b, x - a) >= r + s + gap for b, a, s in found):
            found.append((y, x, r))
    return discs(*found)


def split(cells: NDArray[np.int32], height: int, width: int) -> list[tuple[int, int, NDArray[np.int32]]]:
    """Cut a label image into tiles, each numbered 1..n of its own."""
    tiles = []
    for y0 in range(0, cells.shape[0], height):
        for x0 in range(0, cells.shape[1], width):
            part = cells[y0 : y0 + height, x0 : x0 + width]
            ids = np.unique(part[part > 0])
            tiles.append((y0, x0, np.where(part > 0, np.searchsorted(ids, part) + 1, 0).astype(np.int32)))
    return tiles


def same_partition(a: NDArray[np.int32], b: NDArray[np.int32]) -> bool:
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return pairs.shape[1] == len(np.unique(a)) == len(np.unique(b)) and bool(((pairs[0] == 0) == (pairs[1] == 0)).all())


@given(seed=st.integers(0, 10_000), height=st.integers(40, 150), width=st.integers(40, 190))
def test_discs_cut_by_any_grid_of_tiles_are_joined_to_the_discs_they_were(seed: int, height: int, width: int) -> None:
    cells = spread_discs(seed, gap=3)
    joined, _ = join_tiles(split(cells, height, width), SHAPE)
    assert same_partition(joined, cells)


@given(seed=st.integers(0, 10_000), height=st.integers(40, 150), width=st.integers(40, 190))
def test_ids_are_dense_and_every_part_is_told_its_new_id(seed: int, height: int, width: int) -> None:
    tiles = split(spread_discs(seed, gap=0), height, width)
    joined, new_id = join_tiles(tiles, SHAPE)
    assert np.array_equal(np.unique(joined), np.arange(joined.max() + 1))
    lut = np.concatenate([[0], new_id])
    offset = 0
    for y0, x0, labels in tiles:
        box = joined[y0 : y0 + labels.shape[0], x0 : x0 + labels.shape[1]]
        assert np.array_equal(box, lut[np.where(labels > 0, labels + offset, 0)])
        offset += int(labels.max())
    assert len(new_id) == offset


def test_a_cell_on_four_tiles_becomes_one() -> None:
    cells = discs((64, 64, 17), shape=(128, 128))
    joined, new_id = join_tiles(split(cells, 64, 64), (128, 128))
    assert new_id.tolist() == [1, 1, 1, 1]
    assert np.array_equal(joined, cells)


@pytest.mark.parametrize("swap", [False, True])
def test_two_cells_that_touch_across_a_border_stay_two(swap: bool) -> None:
    cells = discs((40, 48, 16), (40, 79, 16), shape=(80, 128))
    tiles = split(cells, 80, 64)
    if swap:
        cells, tiles = cells.T, [(x, y, labels.T) for y, x, labels in tiles]
    assert np.count_nonzero((tiles[0][2].T if swap else tiles[0][2])[:, 63]) > 3
    joined, _ = join_tiles(tiles, (cells.shape[0], cells.shape[1]))
    assert same_partition(joined, cells)


def test_a_cell_whose_tip_alone_crosses_the_border_is_one() -> None:
    cells = discs((40, 48.4, 16), shape=(80, 128))
    tiles = split(cells, 80, 64)
    assert 0 < np.count_nonzero(tiles[1][2]) < 12
    assert join_tiles(tiles, (80, 128))[0].max() == 1


def test_a_part_is_joined_to_the_neighbour_that_it_meets_most() -> None:
    left, right = np.zeros((40, 20), np.int32), np.zeros((40, 20), np.int32)
    left[5:25, 8:] = 1
    right[4:14, :9], right[15:27, :9] = 1, 2
    joined, new_id = join_tiles([(0, 0, left), (0, 20, right)], (40, 40))
    assert new_id.tolist() == [1, 2, 1]
    assert joined[20, 25] == joined[10, 15] != joined[10, 25]


def test_masks_that_stop_one_pixel_short_of_the_border_are_still_one_cell() -> None:
    cells = discs((40, 64, 16), shape=(80, 128))
    cells[:, 64] = 0
    assert join_tiles(split(cells, 80, 64), (80, 128))[0].max() == 1


def test_a_missing_tile_is_background_and_cuts_off_no_other() -> None:
    cells = discs((40, 64, 16), (40, 128, 16), shape=(80, 192))
    tiles = split(cells, 80, 64)
    joined, _ = join_tiles([tiles[0], tiles[2]], (80, 192))
    assert joined.max() == 2
    assert not joined[:, 64:128].any()


def test_no_tiles_and_empty_tiles_give_an_empty_plane() -> None:
    for tiles in ([], [(0, 0, np.zeros((30, 30), np.int32))]):
        joined, new_id = join_tiles(tiles, (30, 30))
        assert joined.shape == (30, 30)
        assert not joined.any()
        assert new_id.size == 0


def test_an_id_without_pixels_gets_no_cell() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[2:4, 2:4], labels[6:8, 6:8] = 1, 3
    joined, new_id = join_tiles([(0, 0, labels)], (10, 10))
    assert new_id.tolist() == [1, 0, 2]
    assert joined.max() == 2


def test_a_tile_outside_of_the_plane_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not lie in a plane"):
        join_tiles([(0, 25, np.zeros((30, 30), np.int32))], (30, 30))
