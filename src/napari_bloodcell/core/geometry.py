"""Boxes, half-open (y0, x0, y1, x1) in pixels, and masks, (h, w) bool."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[int, int, int, int]
Slices = tuple[slice, slice]

CROSS, SQUARE = ndimage.generate_binary_structure(2, 1), ndimage.generate_binary_structure(2, 2)
"""Neighbours of a pixel: the 4 beside it, and the 8 around it."""


def grown(box: Box, margin: int, shape: tuple[int, ...]) -> Box:
    """Return a box with a margin around it, cut to a plane of `shape` (Y, X)."""
    y0, x0, y1, x1 = box
    return max(y0 - margin, 0), max(x0 - margin, 0), min(y1 + margin, shape[0]), min(x1 + margin, shape[1])


def union_of(boxes: Iterable[Box]) -> Box:
    """Return the smallest box around all of these."""
    y0, x0, y1, x1 = zip(*boxes, strict=True)
    return min(y0), min(x0), max(y1), max(x1)


def shared_box(a: Box, b: Box) -> Box | None:
    """Return the box that two boxes share, or None."""
    y0, x0, y1, x1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (y0, x0, y1, x1) if y0 < y1 and x0 < x1 else None


def slices_of(box: Box, corner: tuple[int, int] = (0, 0)) -> Slices:
    """Return the index of a box in an array whose first pixel is `corner` (y, x)."""
    (y0, x0, y1, x1), (y, x) = box, corner
    return slice(y0 - y, y1 - y), slice(x0 - x, x1 - x)


def box_of_mask(mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> Box | None:
    """Return the smallest box around the pixels of a mask whose first pixel is `corner`; None if it has none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    y, x = corner
    return y + int(rows[0]), x + int(columns[0]), y + int(rows[-1]) + 1, x + int(columns[-1]) + 1


def largest_part(mask: NDArray[np.bool_], neighbours: NDArray[np.bool_] = SQUARE) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask: the mask itself if it is in one piece."""
    parts, n_parts = ndimage.label(mask, neighbours)
    if n_parts <= 1:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax(), np.bool_)
