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
LEAST_FIELD = 0.15
"""Least width of a field within surroundings, as a share of the picture's shorter side: bright cells in the dark are
narrower."""
SAME_COLOUR, LEAST_STEP, RIM_PX = 14, 24, 10
"""Levels by which a frame's colour varies at most, and by which it differs from the field within so many pixels."""
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
    the picture and leave a rectangle, as a viewer's window does. Any other colour counts if it is that of two corners
    or more and ends in a sharp, smooth rim, as around a round field. Glass between cells does none of these.
    """
    outside = _window(overview)
    black = _grown(_large_parts(_black(overview.max(-1))), 1)  # rims are blurred
    if black.any() and _holds_a_field(inside := ~(black | outside)) and _is_smooth(inside):
        outside = ~inside
    if not outside.any():
        outside = _frame(overview)
    return Surroundings(shape, outside) if LEAST_SHARE <= outside.mean() < 0.99 else None


def _black(value: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what is black in a picture, given its brightness (y, x)."""
    bright = float(np.percentile(value, 90)) if value.size else 0.0
    lit = value[value > DARK_MOST]
    if lit.size > 0.02 * value.size:
        bright = float(np.percentile(lit, 90))
    return np.asarray(value < min(DARK_MOST, DARK_SHARE * bright), np.bool_)


def _large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the parts of a mask (y, x) that are large and wider than a line; less is enough at the picture's edge."""
    if not mask.any():
        return mask
    wide = np.asarray(ndimage.binary_opening(np.pad(mask, 3, mode="edge"), np.ones((5, 5), bool))[3:-3, 3:-3], np.bool_)
    parts, n_parts = ndimage.label(wide, np.ones((3, 3), bool))
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    is_large = sizes >= np.where(np.isin(np.arange(n_parts + 1), rim), 0.6 * LEAST_SHARE, 6 * LEAST_SHARE) * mask.size
    is_large[0] = False
    return np.asarray(is_large[parts], np.bool_)


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=by), np.bool_)


def _holds_a_field(inside: NDArray[np.bool_]) -> bool:
    """Return whether most of what is left (y, x) lies in parts that are wide, as fields are."""
    parts, n_parts = ndimage.label(inside)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"))[1:-1, 1:-1]
    deepest = np.asarray(ndimage.maximum(depth, parts, np.arange(1, n_parts + 1)))
    is_wide = np.concatenate([[False], 2 * deepest >= LEAST_FIELD * min(inside.shape)])
    return bool(is_wide[parts].sum() >= 0.5 * inside.sum())


def _frame(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what has the colour of at least two corners and ends in a rim; all False if nothing does."""
    nothing = np.zeros(overview.shape[:2], bool)
    height, width = overview.shape[:2]
    if min(height, width) < 32:
        return nothing
    corners = [overview[y, x] for y in (slice(6), slice(-6, None)) for x in (slice(6), slice(-6, None))]
    colours = np.array([np.median(corner.reshape(-1, 3), axis=0) for corner in corners])
    alike = np.abs(colours[:, None] - colours[None]).max(-1) <= SAME_COLOUR
    if alike.sum(1).max() < 2:
        return nothing
    colour = colours[alike[alike.sum(1).argmax()]].mean(0)
    contrast = np.abs(ndimage.uniform_filter(overview.astype(np.float32), (3, 3, 1)) - colour).max(-1)
    alike_in_picture = _large_parts(contrast <= SAME_COLOUR)
    parts, _ = ndimage.label(alike_in_picture, np.ones((3, 3), bool))
    reached = [np.unique(parts[y, x]) for y in (slice(7), slice(-7, None)) for x in (slice(7), slice(-7, None))]
    outside = np.isin(parts, np.concatenate(reached)) & alike_in_picture
    at_corners = sum(bool(numbers.any()) for numbers in reached)
    # Of red cells that lie in corners, others have the colour too, and none is of one colour.
    is_one = outside.sum() >= 0.9 * ndimage.binary_opening(contrast <= SAME_COLOUR, np.ones((3, 3), bool)).sum()
    if at_corners < 2 or not is_one or np.percentile(contrast[outside], 85) > SAME_COLOUR / 2:
        return nothing
    depth = np.ceil(ndimage.distance_transform_edt(~outside))
    rise = [float(np.median(contrast[depth == k])) if (depth == k).any() else 0.0 for k in range(1, RIM_PX + 1)]
    field, beyond = (
        float(np.median(contrast[here])) if (here := (depth > a) & (depth <= b)).any() else 0.0
        for a, b in ((RIM_PX, 3 * RIM_PX), (3 * RIM_PX, 5 * RIM_PX))
    )
    slope = max(beyond - field, 0.0) / 2  # over as many pixels as a rim has at most
    if max(rise) < LEAST_STEP or max(rise) - SAME_COLOUR < 3 * slope or max(rise) < 0.8 * field:
        return nothing
    outside = depth <= next(k for k, step in enumerate(rise) if step >= 0.8 * min(field, max(rise)))
    if not (_holds_a_field(~outside) and _is_smooth(~outside)):
        return nothing
    brightness = overview.mean(-1)
    is_darker = np.median(brightness[outside]) < 0.9 * np.percentile(brightness[~outside], 90)
    is_page = (_spread(overview)[outside] <= FLAT_RANGE).mean() > 0.8 and _is_drawn(~outside)
    return outside if is_darker or is_page else nothing


def _is_smooth(inside: NDArray[np.bool_]) -> bool:
    """Return whether the rim of what is left (y, x) is smooth: that of cells is not."""
    radius = 0.06 * min(inside.shape)
    margin = int(2 * radius) + 1
    padded = np.pad(inside, margin, mode="edge")
    core = ndimage.distance_transform_edt(padded) > radius
    opened = (ndimage.distance_transform_edt(~core) <= radius)[margin:-margin, margin:-margin]
    return bool((opened & inside).sum() >= 0.93 * inside.sum())


def _is_drawn(inside: NDArray[np.bool_]) -> bool:
    """Return whether what is left (y, x) consists of exact rectangles and ellipses."""
    parts, _ = ndimage.label(inside)
    drawn = 0
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        area = int((parts[rows, columns] == number).sum())
        share = area / ((rows.stop - rows.start) * (columns.stop - columns.start))
        drawn += area * (share > 0.96 or abs(share / (np.pi / 4) - 1) < 0.02)
    return bool(drawn >= 0.9 * inside.sum() and inside.mean() > 0.3)


def _window(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what surrounds the picture in a viewer's window or on a page; all False if there is none."""
    nothing = np.zeros(overview.shape[:2], bool)
    sides = (overview[0], overview[-1], overview[:, 0], overview[:, -1])
    if min(nothing.shape) < 32 or not any(_is_flat(side) for side in sides):
        return nothing
    flat = _spread(overview) <= FLAT_RANGE
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


def _spread(overview: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return by how much the colours around each pixel (y, x) differ."""
    spread = ndimage.maximum_filter(overview, (3, 3, 1)).astype(int) - ndimage.minimum_filter(overview, (3, 3, 1))
    return np.asarray(spread.max(-1), np.int64)


def _is_flat(line: NDArray[np.uint8]) -> bool:
    """Return whether a line (N, 3) of pixels hardly varies from one to the next."""
    steps = np.abs(np.diff(line.astype(int), axis=0)).max(-1)
    return bool((steps <= FLAT_RANGE).mean() >= 0.9)
