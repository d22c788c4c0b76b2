"""Point prompts where there are cells, for a SAM that does not propose any itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.filters import threshold_otsu

from napari_bloodcell.core.protocols import Calibration

_LEAST_CONTRAST, _MOST_CONTRAST = 5.0, 20.0
"""Bounds of the threshold, Lab units: a tile without cells has only noise to split, one full of cells only shades."""


def find_foreground(image: NDArray[np.uint8], background_rgb: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Return where a (Y, X, 3) uint8 image differs from the empty glass, (Y, X) bool, holes filled.

    Distance in Lab from the smear's background colour, above Otsu's threshold of the distances clipped at their 80th
    percentile: unclipped, one white cell that dominates the tile hides the red ones.
    """
    glass = rgb2lab(np.asarray(background_rgb, np.float64).reshape(1, 1, 3) / 255).reshape(3)
    distance = np.linalg.norm(rgb2lab(image) - glass, axis=-1)
    clipped = np.minimum(distance, np.percentile(distance, 80))
    threshold = float(threshold_otsu(clipped)) if np.ptp(clipped) > 0 else _LEAST_CONTRAST  # type: ignore[no-untyped-call]
    above = distance > np.clip(threshold, _LEAST_CONTRAST, _MOST_CONTRAST)
    return np.asarray(ndimage.binary_fill_holes(above), np.bool_)


def regular_grid(shape: tuple[int, int], points_per_side: int) -> NDArray[np.float64]:
    """Return SAM's regular grid of points (N, 2) as (y, x), row by row, in the middle of equal boxes."""
    steps = (np.arange(points_per_side) + 0.5) / points_per_side
    y, x = np.meshgrid(steps * shape[0], steps * shape[1], indexing="ij")
    return np.stack([y.ravel(), x.ravel()], 1)


def points_on_cells(
    image: NDArray[np.uint8], calibration: Calibration, *, origin: tuple[int, int] = (0, 0)
) -> NDArray[np.float64]:
    """Return points (N, 2) float64 as (y, x) on the cells of an image (Y, X, 3) uint8, the most central ones first.

    They are the maxima of the foreground's distance transform, then a grid on the foreground with a spacing of half a
    red cell, aligned to the smear (`origin` is (y, x) of the image in it), without what a maximum makes needless.
    """
    diameter = calibration.rbc_diameter_px
    found = find_foreground(image, calibration.background_rgb)
    # The border of the image is no border of a cell; without any glass there is nothing to measure a distance to.
    distance = np.full(found.shape, diameter / 2) if found.all() else ndimage.distance_transform_edt(found)
    smooth = ndimage.gaussian_filter(distance, max(1.0, diameter / 34))
    window = max(3, round(diameter / 4) | 1)
    is_peak = (smooth == ndimage.maximum_filter(smooth, size=window)) & (distance > max(1.0, 0.08 * diameter))
    labels, n = ndimage.label(is_peak, structure=np.ones((3, 3)))  # a plateau is one maximum
    peaks = np.array(ndimage.center_of_mass(is_peak, labels, range(1, n + 1)), np.float64).reshape(-1, 2)

    spacing = max(2.0, 0.5 * diameter)
    axes = [np.arange((spacing / 2 - o) % spacing, n, spacing) for n, o in zip(image.shape, origin, strict=False)]
    grid = np.stack([a.ravel() for a in np.meshgrid(*axes, indexing="ij")], 1)
    rows, columns = grid.astype(np.intp).T
    grid = grid[distance[rows, columns] > max(1.0, 0.08 * diameter)]
    if len(peaks) and len(grid):
        from_peak = np.ones(image.shape[:2], bool)
        from_peak[tuple(np.rint(peaks).astype(np.intp).T)] = False
        rows, columns = grid.astype(np.intp).T
        grid = grid[ndimage.distance_transform_edt(from_peak)[rows, columns] > spacing / 2]
    return np.concatenate([peaks, grid])
