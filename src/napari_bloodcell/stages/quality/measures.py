"""What the quality of a place is judged by: whole-numbered sums over pixels, the same however a smear is divided."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.calibration import smear_in

TILE_WIDTHS: Final = 10
"""Side of a tile, red cells' widths."""
WORKING_PX: Final = 28
"""A red cell is measured at this width, pixels, or at up to twice of it: pixels of finer pictures are averaged."""
FINE, COARSE = 0.03, 0.06
"""Standard deviations of the two blurs whose edges are compared, red cells' widths."""
BETWEEN: Final = (COARSE**2 - FINE**2) ** 0.5
"""The blur that makes the coarse one of the fine one."""
TRUNCATE: Final = 3.0
"""A blur is cut off after this many standard deviations."""
NEAR_CELL: Final = 0.08
"""Nearer to a cell than this, red cells' widths, nothing is stray: masks do not end on the pixel."""
STRAY, LEAST_STRAY = 0.5, 0.1
"""Stain off the cells is denser than this share of a typical red cell, and than this optical density."""
ENERGY_UNIT: Final = 2.0**-24
"""Squared slopes are summed in whole numbers of this unit: float sums would depend on the parts."""

CELL_SUMS: Final = ("pixels", "fine", "coarse", "outline", "contact")
"""Per cell: working pixels, squared slopes after a fine and a coarse blur, sides of pixels on its outline, and those
of them that touch another cell."""
TILE_SUMS: Final = ("pixels", "cells", "stray")
"""Per tile: working pixels, and how many of them show cells, and stain off the cells."""


@dataclass(frozen=True)
class Grid:
    """The tiles of a smear of `shape` (Y, X), pixels, whose red cells are `rbc_diameter_px` wide."""

    shape: tuple[int, int]
    rbc_diameter_px: float

    @classmethod
    def of(cls, shape: tuple[int, ...], calibration: Calibration) -> Self:
        """Return the tiles of a smear of `shape` (Y, X)."""
        return cls((int(shape[0]), int(shape[1])), calibration.rbc_diameter_px)

    @cached_property
    def lines(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where rows and columns of tiles begin and end, pixels."""
        side = TILE_WIDTHS * self.rbc_diameter_px
        rows, columns = (np.rint(np.linspace(0, n, max(1, round(n / side)) + 1)).astype(np.int64) for n in self.shape)
        return rows, columns

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, columns = self.lines
        return len(rows) - 1, len(columns) - 1

    @cached_property
    def boxes(self) -> NDArray[np.int64]:
        """Boxes of all tiles, (N, 4), row by row."""
        rows, columns = self.lines
        y, x = (part.ravel() for part in np.mgrid[: len(rows) - 1, : len(columns) - 1])
        return np.stack([rows[y], columns[x], rows[y + 1], columns[x + 1]], 1)

    def tiles_at(self, y: NDArray[np.number], x: NDArray[np.number]) -> NDArray[np.intp]:
        """Return the tile that each place lies in, (N,)."""
        rows, columns = self.lines
        return tiles_at(rows[1:-1], columns[1:-1], y, x)

    @property
    def bin_px(self) -> int:
        """Pixels along a side that become one working pixel."""
        return max(1, int(self.rbc_diameter_px / WORKING_PX))

    @property
    def working_px(self) -> float:
        """Width of a red cell, working pixels."""
        return self.rbc_diameter_px / self.bin_px

    @property
    def margin_px(self) -> int:
        """Pixels around a part that its sums depend on."""
        blurs = TRUNCATE * (FINE + BETWEEN) * self.working_px
        return (int(np.ceil(max(blurs, NEAR_CELL * self.working_px))) + 4) * self.bin_px


def tiles_at(
    rows: NDArray[np.integer], columns: NDArray[np.integer], y: NDArray[np.number], x: NDArray[np.number]
) -> NDArray[np.intp]:
    """Return the tile that each place lies in, (N,), given where all rows and columns but the first begin, pixels."""
    row, column = (np.searchsorted(at, np.asarray(place) + 0.5, "right") for at, place in ((rows, y), (columns, x)))
    return np.asarray(row * (len(columns) + 1) + column, np.intp)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over a smear, or a part of it: `cells` with `CELL_SUMS`, index id; `tiles` (N, len(TILE_SUMS)) int64."""

    cells: pd.DataFrame
    tiles: NDArray[np.int64]


def measure_part(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    corner: tuple[int, int],
    core: Box,
    grid: Grid,
    calibration: Calibration,
) -> Sums:
    """Return the sums over the pixels of a box of a smear.

    `image` (y, x, 3) uint8 and `labels` (y, x), with the ids of the cells, show the box `core` (y0, x0, y1, x1) with
    `grid.margin_px` around it where the smear goes on; `corner` is the (y, x) of their first pixel.
    """
    k, working = grid.bin_px, grid.working_px
    image = smear_in(image, corner, calibration)
    first, ends = [-(-at // k) for at in corner], [(at + n) // k for at, n in zip(corner, labels.shape, strict=True)]
    kept = tuple(slice(a * k - at, b * k - at) for a, b, at in zip(first, ends, corner, strict=True))
    glass = np.maximum(np.asarray(calibration.background_rgb, np.float32), 1)
    lit = _binned(image[kept], k)
    labels = labels[kept][k // 2 :: k, k // 2 :: k]
    inner = tuple(
        slice(-(-a // k) - at, min(-(-b // k), n // k) - at)
        for a, b, n, at in zip(core[:2], core[2:], grid.shape, first, strict=True)
    )
    own = labels[inner]
    flat, n_ids = own.ravel(), int(labels.max(initial=0)) + 1
    columns = [np.bincount(flat, minlength=n_ids)]
    fine = _blurred(lit[..., 1] / glass[1], FINE * working)
    coarse = _blurred(fine, BETWEEN * working)
    for seen in (fine, coarse):
        units = np.rint(_squared_slope(seen)[inner].astype(np.float64) / ENERGY_UNIT)
        columns.append(np.bincount(flat, units.ravel(), n_ids).astype(np.int64))
    columns += _outlines(labels, inner, n_ids)
    cells = pd.DataFrame(np.stack(columns, 1), pd.RangeIndex(n_ids, name="id"), list(CELL_SUMS)).iloc[1:]
    near = ndimage.maximum_filter((labels > 0).view(np.uint8), 2 * max(1, round(NEAR_CELL * working)) + 1)[inner] > 0
    darkest = 10 ** -max(STRAY * density_of_red(calibration), LEAST_STRAY)
    is_stray = ~near & (lit[inner] @ (1 / (3 * glass)) < darkest)
    rows, columns_ = (
        _begins(lines, (np.arange(part.start, part.stop) + at) * k + k // 2)
        for lines, part, at in zip(grid.lines, inner, first, strict=True)
    )
    tiles = np.zeros((*grid.size, len(TILE_SUMS)), np.int64)
    for at, one in enumerate((np.ones(own.shape, bool), own > 0, is_stray)):
        strips = np.add.reduceat(one, rows[1], axis=0, dtype=np.int64)
        tiles[rows[0][:, None], columns_[0][None], at] = np.add.reduceat(strips, columns_[1], axis=1)
    return Sums(cells[cells.any(axis=1)], tiles.reshape(-1, len(TILE_SUMS)))


def _blurred(plane: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(plane, sigma, truncate=TRUNCATE), np.float32)


def _squared_slope(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the squared slope (y, x), by differences between neighbours on both sides."""
    square = np.zeros_like(plane)
    square[1:-1] = (plane[2:] - plane[:-2]) ** 2
    square[:, 1:-1] += (plane[:, 2:] - plane[:, :-2]) ** 2
    return square


def _begins(lines: NDArray[np.int64], at: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the tiles, in one direction, that rising places lie in, and the first place of each."""
    found, first = np.unique(np.searchsorted(lines[1:-1], at, "right"), return_index=True)
    return found, first


def density_of_red(calibration: Calibration) -> float:
    """Return the optical density of a typical red cell, the mean of R, G and B; 0.15 where too few were seen."""
    if calibration.red_rgb is None:
        return 0.15
    lit = np.mean(np.asarray(calibration.red_rgb) / np.maximum(calibration.background_rgb, 1.0))
    return float(-np.log10(np.clip(lit, 0.01, 0.99)))


def _binned(image: NDArray[np.uint8], k: int) -> NDArray[np.float32]:
    """Return the means of squares of k × k pixels of (y, x, 3)."""
    if k == 1:
        return image.astype(np.float32)
    height, width = image.shape[0] // k, image.shape[1] // k
    return np.asarray(image.reshape(height, k, width, k, 3).mean((1, 3), dtype=np.float32))


def _outlines(labels: NDArray[np.integer], inner: tuple[slice, ...], n_ids: int) -> list[NDArray[np.int64]]:
    """Return the sides of pixels on the outline of each cell, and those on that of another cell too, (n_ids,) each.

    A side belongs to the part that holds the pixel above it, or to its left.
    """
    outline, contact = np.zeros(n_ids, np.int64), np.zeros(n_ids, np.int64)
    (top, bottom), (left, right) = ((part.start, part.stop) for part in inner)
    height, width = labels.shape
    for here, there in (
        (labels[top : min(bottom, height - 1), left:right], labels[top + 1 : bottom + 1, left:right]),
        (labels[top:bottom, left : min(right, width - 1)], labels[top:bottom, left + 1 : right + 1]),
    ):
        differ = here != there
        for one, other in ((here[differ], there[differ]), (there[differ], here[differ])):
            outline += np.bincount(one, minlength=n_ids)
            contact += np.bincount(one[other > 0], minlength=n_ids)
    return [outline, contact]
