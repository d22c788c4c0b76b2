"""Tiles leave no trace: other sizes and shifted grids find the same cells."""

from __future__ import annotations

import importlib
import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import napari_bloodcell as nb
from napari_bloodcell.models.load import load_generator
from napari_bloodcell.stages.tiles import Tile
from napari_bloodcell.synthetic import load_shipped
from tests.fakes import ThresholdGenerator, disc_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.network

GRIDS = [(256, 0, 0), (384, 0, 0), (512, 0, 0), (1024, 0, 0), (512, 170, 333), (256, 100, 50)]


def tiles_of(shape: tuple[int, int], size: int, overlap: int, dy: int, dx: int) -> list[Tile]:
    """A grid of tiles that is moved down and to the right."""
    sides = []
    for n, d in zip(shape, (dy, dx), strict=True):
        edges = [0, *range(d or size, n, size), n]
        sides.append(list(itertools.pairwise(edges)))
    tiles = []
    for row, (y0, y1) in enumerate(sides[0]):
        for column, (x0, x1) in enumerate(sides[1]):
            read = (
                *(max(y0 - overlap, 0), max(x0 - overlap, 0)),
                *(min(y1 + overlap, shape[0]), min(x1 + overlap, shape[1])),
            )
            tiles.append(Tile(row, column, (y0, x0, y1, x1), read))
    return tiles


def best_ious(cells: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.float64]:
    """IoU of each cell with the one of `others` that fits it best."""
    shared = np.zeros((cells.max() + 1, others.max() + 1), np.int64)
    np.add.at(shared, (cells.ravel(), others.ravel()), 1)
    area, other_area = np.bincount(cells.ravel()), np.bincount(others.ravel())
    return np.asarray((shared / (area[:, None] + other_area[None] - shared))[1:, 1:].max(1))


def segment_on(
    image: NDArray[np.uint8],
    grid: tuple[int, int, int],
    diameter: float | None,
    patch: pytest.MonkeyPatch,
    *,
    is_grouped: bool = False,
) -> nb.Segmentation:
    size, dy, dx = grid
    module = importlib.import_module("napari_bloodcell.stages.segment")
    with patch.context() as one:
        one.setattr(
            module, "_tiles_of", lambda shape, _size, overlap, _region: tiles_of(shape[:2], size, overlap, dy, dx)
        )
        if not is_grouped:
            one.setattr(module, "tiles_across", lambda *_: 1)  # the network sees every border
        params = nb.SegmentParams(rbc_diameter_px=diameter, tile_size=size)
        return nb.segment(image, params=params, generator=load_generator("embedded"))


def steps_across(cells: NDArray[np.int32], grid: tuple[int, int, int]) -> int:
    """How often the pixels on both sides of a tile's border are not of one cell: many, where borders cut cells."""
    size, dy, dx = grid
    rows = np.arange(dy or size, cells.shape[0], size)
    columns = np.arange(dx or size, cells.shape[1], size)
    return int((cells[rows - 1] != cells[rows]).sum() + (cells[:, columns - 1] != cells[:, columns]).sum())


def check_grids(
    image: NDArray[np.uint8],
    patch: pytest.MonkeyPatch,
    grids: Sequence[tuple[int, int, int]] = tuple(GRIDS),
    *,
    is_grouped: bool = False,
) -> None:
    whole = segment_on(image, (4096, 0, 0), None, patch)
    for grid in grids:
        tiled = segment_on(image, grid, whole.calibration.rbc_diameter_px, patch, is_grouped=is_grouped)
        ious = best_ious(whole.cells, tiled.cells)
        assert len(tiled.table) == len(whole.table), grid
        assert (ious >= 0.98).mean() >= 0.995, grid
        assert steps_across(tiled.cells, grid) <= 1.02 * steps_across(whole.cells, grid) + 3, grid


@pytest.mark.slow
def test_tiles_leave_no_trace_on_the_shipped_smear(monkeypatch: pytest.MonkeyPatch) -> None:
    check_grids(load_shipped()[0], monkeypatch)


@pytest.mark.slow
def test_nor_do_tiles_that_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    check_grids(load_shipped()[0], monkeypatch, [(256, 0, 0), (384, 0, 0), (256, 100, 50)], is_grouped=True)


@pytest.mark.slow
def test_tiles_leave_no_trace_on_hs1(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def patch_of(row: int, column: int) -> NDArray[np.uint8]:
        return np.asarray(Image.open(shared_data / f"smears/HS1/images/HS1_r{row:02d}_c{column:02d}.jpg"))

    rows = [np.concatenate([patch_of(row, column) for column in (6, 7)], 1) for row in (3, 4)]
    check_grids(np.concatenate(rows, 0), monkeypatch)


def test_a_cell_on_four_tiles_is_one_cell_on_any_grid() -> None:
    image = disc_image([(64.0, 64.0), (64.0, 128.0), (130.0, 66.0)], (190, 190))
    for size in (64, 65, 100):
        for overlap in (None, 0):
            params = nb.SegmentParams(rbc_diameter_px=24, tile_size=size, tile_overlap=overlap)
            assert len(nb.segment(image, params=params, generator=ThresholdGenerator()).table) == 3
