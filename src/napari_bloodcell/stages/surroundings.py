"""Finds what is not smear in a picture: black around a round field, gaps of a mosaic, a viewer's window."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import Box

OVERVIEW_PX = 320
"""Longest side of the small picture that is searched."""
BAND_PX = 1024
"""Rows of a smear read at once to make it."""
DARK_SHARE, DARK_MOST = 0.18, 36.0
"""Black is darker than this share of the brightest tenth, and than this level; nuclei are brighter."""
LEAST_SHARE = 0.008
"""Least share of a picture that black surroundings cover."""
LEAST_FIELD = 0.25
"""Least width of a field within surroundings, as a share of the picture's shorter side: bright cells in the dark are
narrower."""
FLAT_RANGE = 4
"""A screen's colours vary by at most this between neighbouring pixels; a camera's vary more."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The part of a picture of `shape` (Y, X), pixels, outside the smear: a coarse (y, x) bool, True outside."""

    shape: tuple[int, int]
    outside: NDArray[np.bool_]

    @property
    def share(self) -> float:
        """Share of the picture outside the smear."""
        return float(self.outside.mean())

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.bool_]:
        """Slice it like an array (Y, X) of bool."""
        (y0, y1, _), (x0, x1, _) = (one.indices(n) for one, n in zip(key, self.shape, strict=True))
        return self.within((y0, x0, y1, x1))

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.bool_]:
        """Return the whole, (Y, X) bool."""
        return self.within((0, 0, *self.shape))

    def within(self, box: Box) -> NDArray[np.bool_]:
        """Return which pixels of a box (y0, x0, y1, x1) are outside the smear; the same for any tile."""
        y0, x0, y1, x1 = box
        rows, columns = (
            np.clip(np.arange(a, b) * n // size, 0, n - 1)
            for a, b, n, size in zip((y0, x0), (y1, x1), self.outside.shape, self.shape, strict=True)
        )
        return self.outside[np.ix_(rows, columns)]

    def touch(self, boxes: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Return which boxes (N, 4), half-open (y0, x0, y1, x1), pixels, reach or adjoin the surroundings."""
        total = np.pad(self.outside.astype(np.int64), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
        scale = np.array(self.outside.shape) / np.array(self.shape)
        low = np.clip(np.floor(boxes[:, :2] * scale - 0.5).astype(int), 0, self.outside.shape)
        high = np.clip(np.ceil(boxes[:, 2:] * scale + 0.5).astype(int), low, self.outside.shape)
        (y0, x0), (y1, x1) = low.T, high.T
        return np.asarray(total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] > 0, np.bool_)

    def to_text(self) -> str:
        """Return this as a short text; "" if nothing is outside."""
        if not self.outside.any():
            return ""
        packed = base64.b64encode(zlib.compress(np.packbits(self.outside).tobytes(), 9)).decode("ascii")
        return " ".join([*map(str, (*self.shape, *self.outside.shape)), packed])


@cache
def surroundings_from(text: str) -> Surroundings | None:
    """Return the surroundings that `Surroundings.to_text` wrote, or None for ""; `ValueError` for anything else."""
    if not text:
        return None
    *sizes, packed = text.split(" ")
    height, width, rows, columns = map(int, sizes)
    if not (0 < rows <= OVERVIEW_PX and 0 < columns <= OVERVIEW_PX and rows <= height and columns <= width):
        raise ValueError("the surroundings have an impossible size")
    unpack = zlib.decompressobj()
    bits = np.frombuffer(unpack.decompress(base64.b64decode(packed), OVERVIEW_PX**2), np.uint8)
    outside = np.unpackbits(bits, count=rows * columns).astype(bool).reshape(rows, columns)
    return Surroundings((height, width), outside)


def overview_of(pixels: Any) -> NDArray[np.uint8]:
    """Return every n-th pixel of a (Y, X, 3) smear, at most `OVERVIEW_PX` a side; a lazy one is read in bands."""
    height, width = pixels.shape[:2]
    step = max(1, -(-max(height, width) // OVERVIEW_PX))
    half = step // 2 if min(height, width) > step else 0
    if isinstance(pixels, np.ndarray):
        return np.asarray(pixels[half::step, half::step])
    rows = max(1, BAND_PX // step) * step
    bands = [np.asarray(pixels[y : y + rows])[half::step, half::step] for y in range(0, height, rows)]
    return np.concatenate(bands)


def find_surroundings(overview: NDArray[np.uint8], shape: tuple[int, int]) -> Surroundings | None:
    """Return the surroundings of a smear of `shape` (Y, X) from a small picture (y, x, 3) of it, or None.

    Black counts if it is connected and wider than a line. A screen's flat colours count if they span a whole side of
    the picture and leave a rectangle, as a viewer's window does; glass between cells does not.
    """
    value = overview.max(-1)
    outside = np.asarray(ndimage.binary_dilation(_black(value), np.ones((3, 3), bool)), np.bool_)  # rims are blurred
    if outside.any() and not _holds_a_field(~outside):
        return None
    if not outside.any():
        outside = _window(overview)
    return Surroundings(shape, outside) if LEAST_SHARE <= outside.mean() < 0.97 else None


def _black(value: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the large black parts of a picture, given its brightness (y, x)."""
    bright = float(np.percentile(value, 90)) if value.size else 0.0
    lit = value[value > DARK_MOST]
    if lit.size > 0.02 * value.size:
        bright = float(np.percentile(lit, 90))
    dark = value < min(DARK_MOST, DARK_SHARE * bright)
    if not dark.any():
        return dark
    wide = np.asarray(ndimage.binary_opening(np.pad(dark, 3, mode="edge"), np.ones((5, 5), bool))[3:-3, 3:-3], np.bool_)
    parts, n_parts = ndimage.label(wide, np.ones((3, 3), bool))
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    is_large = sizes >= np.where(np.isin(np.arange(n_parts + 1), rim), 0.6 * LEAST_SHARE, 6 * LEAST_SHARE) * value.size
    is_large[0] = False
    return np.asarray(is_large[parts], np.bool_)


def _holds_a_field(inside: NDArray[np.bool_]) -> bool:
    """Return whether most of what is not black (y, x) is wide, as a field is."""
    side = max(1, round(LEAST_FIELD * min(inside.shape)))
    wide = ndimage.maximum_filter(ndimage.minimum_filter(inside, side, mode="nearest"), side)
    return bool(wide.sum() >= 0.5 * inside.sum())


def _window(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what surrounds the picture in a viewer's window or on a page; all False if there is none."""
    nothing = np.zeros(overview.shape[:2], bool)
    sides = (overview[0], overview[-1], overview[:, 0], overview[:, -1])
    if min(nothing.shape) < 32 or not any(_is_flat(side) for side in sides):
        return nothing
    spread = ndimage.maximum_filter(overview, (3, 3, 1)).astype(int) - ndimage.minimum_filter(overview, (3, 3, 1))
    flat = spread.max(-1) <= FLAT_RANGE
    parts, _ = ndimage.label(flat)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    around = np.asarray(ndimage.binary_dilation(np.isin(parts, rim[rim > 0]), np.ones((3, 3), bool)), np.bool_)
    side = max(3, round(0.03 * max(nothing.shape))) | 1
    solid, n_solid = ndimage.label(ndimage.binary_opening(~around, np.ones((side, side), bool)))
    if not n_solid:
        return nothing
    sizes = np.bincount(solid.ravel())
    sizes[0] = 0
    (rows, columns), largest = ndimage.find_objects(solid)[sizes.argmax() - 1], sizes.max()
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    if largest < 0.12 * nothing.size or largest < 0.97 * area or largest < 0.6 * (~around).sum():
        return nothing
    outside = ~nothing
    outside[rows, columns] = False
    return outside


def _is_flat(line: NDArray[np.uint8]) -> bool:
    """Return whether a line (N, 3) of pixels hardly varies from one to the next."""
    steps = np.abs(np.diff(line.astype(int), axis=0)).max(-1)
    return bool((steps <= FLAT_RANGE).mean() >= 0.9)
