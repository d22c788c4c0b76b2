"""Finds what is not smear in a picture: black around a round field, gaps of a mosaic, a viewer's window."""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

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
CORNER_PX = 6
"""Side of the corners whose colour is looked at; three times that where they have a texture."""
NEAR_COLOUR = 2.5
"""Levels by which an even frame's colour varies at most: enough for one that leaves exact rectangles and ellipses."""
TEXTURE_PX, TEXTURE_SHARE, LEAST_TEXTURED = 9, 0.35, 0.93
"""Pixels over which a textured frame is averaged, share of its distance from glass by which it then varies at most, and
how exact the rectangles and ellipses are that it leaves."""
LEAST_SOLID, LEAST_PICTURE = 0.97, 0.02
"""A picture on a page fills so much of its rectangle, and so much of the page."""
MOST_MISSED = 0.15
"""What rectangles and ellipses leave differs from the frame by this share of it at most."""
LINE_SAMPLES, LINE_LAG, LINE_CHANGE, LINE_SHARE = 120, 2, 4, 0.6
"""Pixels of a row that are looked at, rows over which an edge may be blurred, and levels by which this share of a row
changes there in the same direction."""
MOST_LINE_PX, MOST_LINE = 12, 0.03
"""A line is at most this wide, pixels, or as this share of the picture."""
N_ANGLES, MOST_AMPLITUDE, LEAST_RAY = 120, 1.0, 0.4
"""Angles at which lines are looked for, most that one log amplitude counts, and by how much a ray stands out: by 0.5 or
more for sharp graticules, by less than 0.35 in 225 fields of ordinary smears."""
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
    the picture and leave rectangles, as a viewer's window does. Any other colour counts if it is that of two corners
    or more and ends in a sharp, smooth rim, as around a round field; one near that of glass, or with a texture, if it
    is that of all corners and leaves rectangles and ellipses. Glass between cells does none of these.
    """
    outside = _window(overview)
    black = _large_parts(_black(_largest(overview)))
    if black.any() and _holds_a_field(inside := ~(_grown(black, 1) | outside)) and _is_smooth(inside):
        outside = ~inside
    if not outside.any():
        outside = _frame(overview)
    return Surroundings(shape, outside) if LEAST_SHARE <= outside.mean() < 0.99 else None


def _black(value: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what is black in a picture, given its brightness (y, x)."""
    if not value.size or value.min() >= DARK_MOST:
        return np.zeros(value.shape, bool)
    lit = value[value > DARK_MOST]
    bright = float(np.percentile(lit if lit.size > 0.02 * value.size else value, 90))
    return np.asarray(value < min(DARK_MOST, DARK_SHARE * bright), np.bool_)


def _largest(picture: NDArray[Any]) -> NDArray[Any]:
    """Return the largest of the three channels of (y, x, 3); ten times as fast as NumPy's max over a short axis."""
    return np.asarray(np.maximum(np.maximum(picture[..., 0], picture[..., 1]), picture[..., 2]))


def _large_parts(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the parts of a mask (y, x) that are large and wider than a line; less is enough at the picture's edge."""
    if mask.sum() < 0.6 * LEAST_SHARE * mask.size:
        return np.zeros_like(mask)
    wide = _opened(np.pad(mask, 3, mode="edge"), 5)[3:-3, 3:-3]
    parts, n_parts = ndimage.label(wide, np.ones((3, 3), bool))
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    is_large = sizes >= np.where(np.isin(np.arange(n_parts + 1), rim), 0.6 * LEAST_SHARE, 6 * LEAST_SHARE) * mask.size
    is_large[0] = False
    return np.asarray(is_large[parts], np.bool_)


def _opened(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Return a mask (y, x) opened by a square; axis by axis that is much quicker than by SciPy's own opening."""
    least = ndimage.minimum_filter(mask.view(np.uint8), side, mode="constant", cval=0)
    return np.asarray(ndimage.maximum_filter(least, side, mode="constant", cval=0), np.bool_)


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, np.ones((3, 3), bool), iterations=by), np.bool_)


def _holds_a_field(inside: NDArray[np.bool_], least: float = 0.5) -> bool:
    """Return whether so much of what is left (y, x) lies in parts that are wide, as fields are."""
    parts, n_parts = ndimage.label(inside)
    depth = ndimage.distance_transform_edt(np.pad(inside, 1, mode="edge"))[1:-1, 1:-1]
    deepest = np.asarray(ndimage.maximum(depth, parts, np.arange(1, n_parts + 1)))
    is_wide = np.concatenate([[False], 2 * deepest >= LEAST_FIELD * min(inside.shape)])
    return bool(is_wide[parts].sum() >= least * inside.sum())


def _frame(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what has the colour of at least two corners and ends in a rim; all False if nothing does."""
    nothing = np.zeros(overview.shape[:2], bool)
    if min(nothing.shape) < 32:
        return nothing
    for side in (CORNER_PX, 3 * CORNER_PX):
        ends = slice(side), slice(-side, None)
        corners = np.stack([overview[y, x].reshape(-1, 3) for y in ends for x in ends])
        noise = float(np.median(corners.std(1).max(-1)))
        colours = np.median(corners, axis=1) if side == CORNER_PX else corners.mean(1)
        most = SAME_COLOUR if side == CORNER_PX else max(SAME_COLOUR, noise)
        is_alike = np.abs(colours[:, None] - colours[None]).max(-1) <= most
        of_largest = is_alike[is_alike.sum(1).argmax()]
        colour = colours[of_largest].mean(0)
        if side == CORNER_PX and of_largest.sum() > 1:
            contrast = _contrast(overview, colour, 3)
            if (outside := _region(overview, contrast, SAME_COLOUR)).any():
                return outside
            if of_largest.all() and noise <= SAME_COLOUR / 2:
                return _region(overview, contrast, NEAR_COLOUR + noise, drawn=LEAST_SOLID)
        if of_largest.all() and noise > SAME_COLOUR / 2:
            to_glass = float(np.abs(np.percentile(overview.reshape(-1, 3), 90, axis=0) - colour).max())
            tolerance = max(SAME_COLOUR, TEXTURE_SHARE * to_glass)
            return _region(overview, _contrast(overview, colour, TEXTURE_PX), tolerance, drawn=LEAST_TEXTURED)
    return nothing


def _contrast(overview: NDArray[np.uint8], colour: NDArray[np.float64], smoothed_px: int) -> NDArray[np.float32]:
    """Return by how many levels each pixel (y, x), smoothed, differs from a colour (3,)."""
    channels = [
        np.abs(ndimage.uniform_filter(overview[..., k].astype(np.float32), smoothed_px) - np.float32(colour[k]))
        for k in range(3)
    ]
    return np.asarray(np.maximum(np.maximum(channels[0], channels[1]), channels[2]), np.float32)


def _region(
    overview: NDArray[np.uint8], contrast: NDArray[np.float32], tolerance: float, *, drawn: float = 0.0
) -> NDArray[np.bool_]:
    """Return the surroundings (y, x) that differ from the corners' colour within a tolerance; all False if none do.

    With `drawn`, what they leave must be rectangles and ellipses, as exact as that; without, they differ from it more.
    """
    nothing = np.zeros(overview.shape[:2], bool)
    is_alike = contrast <= tolerance
    parts, _ = ndimage.label(_large_parts(is_alike), np.ones((3, 3), bool))
    reached = [np.unique(parts[y, x]) for y in (slice(7), slice(-7, None)) for x in (slice(7), slice(-7, None))]
    numbers = np.unique(np.concatenate(reached))
    outside = np.isin(parts, numbers[numbers > 0])
    at_corners = sum(bool(found.any()) for found in reached)
    if at_corners < 2 or not LEAST_SHARE <= outside.mean() < 0.99:
        return nothing
    green = overview[..., 1]
    is_darker = np.median(green[outside]) < 0.9 * np.percentile(green[~outside], 90)
    if not (is_darker or drawn):  # a page
        steps = np.abs(np.diff(green.astype(np.int16), axis=1))[outside[:, 1:]]
        if (steps <= FLAT_RANGE).mean() < 0.9:
            return nothing
    if (drawn or not is_darker) and not _is_drawn(~_grown(outside, 1), drawn or LEAST_SOLID):
        return nothing
    # Of red cells that lie in corners, others have the colour too, and none is of one colour.
    if not drawn and outside.sum() < 0.9 * _opened(is_alike, 3).sum():
        return nothing
    if np.percentile(contrast[outside], 85) > tolerance * (1.0 if drawn else 0.5):
        return nothing
    depth = np.ceil(ndimage.distance_transform_edt(~outside))
    rise = [float(np.median(contrast[depth == k])) if (depth == k).any() else 0.0 for k in range(1, RIM_PX + 1)]
    field, beyond = (
        float(np.median(contrast[here])) if (here := (depth > a) & (depth <= b)).any() else 0.0
        for a, b in ((RIM_PX, 3 * RIM_PX), (3 * RIM_PX, 5 * RIM_PX))
    )
    slope = max(beyond - field, 0.0) / 2  # over as many pixels as a rim has at most
    least_step = LEAST_STEP / SAME_COLOUR * tolerance
    if max(rise) < least_step or max(rise) - tolerance < 3 * slope or max(rise) < 0.8 * field:
        return nothing
    outside = depth <= next(k for k, step in enumerate(rise) if step >= 0.8 * min(field, max(rise)))
    return np.asarray(outside) if _holds_a_field(~outside, 0.9) and _is_smooth(~outside) else nothing


def _is_smooth(inside: NDArray[np.bool_]) -> bool:
    """Return whether the rim of what is left (y, x) is smooth: that of cells is not."""
    radius = 0.06 * min(inside.shape)
    margin = int(2 * radius) + 1
    padded = np.pad(inside, margin, mode="edge")
    core = ndimage.distance_transform_edt(padded) > radius
    opened = (ndimage.distance_transform_edt(~core) <= radius)[margin:-margin, margin:-margin]
    return bool((opened & inside).sum() >= 0.93 * inside.sum())


def _is_drawn(inside: NDArray[np.bool_], least: float) -> bool:
    """Return whether what is left (y, x) consists of rectangles and ellipses, each with so much in common with one."""
    parts, n_parts = ndimage.label(inside)
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    is_large = sizes[1:] >= LEAST_PICTURE * inside.size
    if sizes[1:][is_large].sum() < 0.2 * inside.size:
        return False
    drawn, places = np.zeros_like(inside), ndimage.find_objects(parts)
    for number in np.flatnonzero(is_large).tolist():
        part = ndimage.binary_fill_holes(parts[places[number]] == number + 1)
        y, x = (np.linspace(-1 + 1 / n, 1 - 1 / n, n) for n in part.shape)
        disc = y[:, None] ** 2 + x**2 <= 1
        if part.mean() > least:
            drawn[places[number]] = True
        elif (part & disc).sum() > least * (part | disc).sum():
            drawn[places[number]] |= disc
    missed = (drawn ^ ndimage.binary_fill_holes(inside)).sum()
    return bool(drawn.sum() > 0.3 * inside.size and missed <= MOST_MISSED * (~drawn).sum())


def _window(overview: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return what surrounds the pictures in a viewer's window or on a page; all False if there are none."""
    nothing = np.zeros(overview.shape[:2], bool)
    sides = (overview[0], overview[-1], overview[:, 0], overview[:, -1])
    if min(nothing.shape) < 32 or not any(_is_flat(side) for side in sides):
        return nothing
    flat = _spread(overview) <= FLAT_RANGE
    parts, _ = ndimage.label(flat)
    rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    around = np.asarray(ndimage.binary_dilation(np.isin(parts, rim[rim > 0]), np.ones((3, 3), bool)), np.bool_)
    side = max(3, round(0.03 * max(nothing.shape))) | 1
    solid, _ = ndimage.label(_opened(~around, side))
    outside, in_fields, largest = ~nothing, 0, 0
    for number, (rows, columns) in enumerate(ndimage.find_objects(solid), start=1):
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        size = int((solid[rows, columns] == number).sum())
        if size >= max(LEAST_SOLID * area, LEAST_PICTURE * nothing.size):
            outside[rows, columns] = False
            in_fields, largest = in_fields + size, max(largest, size)
    is_enough = in_fields >= 0.12 * nothing.size and in_fields >= 0.6 * (~around).sum()
    return outside if is_enough and largest >= 0.12 * in_fields else nothing


def _spread(overview: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return by how much the colours around each pixel (y, x) differ."""
    spread = ndimage.maximum_filter(overview, (3, 3, 1)).astype(int) - ndimage.minimum_filter(overview, (3, 3, 1))
    return np.asarray(_largest(spread), np.int64)


def _is_flat(line: NDArray[np.uint8]) -> bool:
    """Return whether a line (N, 3) of pixels hardly varies from one to the next."""
    steps = np.abs(np.diff(line.astype(int), axis=0)).max(-1)
    return bool((steps <= FLAT_RANGE).mean() >= 0.9)


# --- lines -----------------------------------------------------------------------------------------------------------


def has_lines(pixels: NDArray[np.uint8], overview: NDArray[np.uint8], around: Surroundings | None = None) -> bool:
    """Return whether straight lines cross a smear (Y, X, 3): the gaps of a mosaic, a graticule, a ruled slide.

    `overview` (y, x, 3) is a small picture of it. What lies in its surroundings is no line.
    """
    green, (height, width) = pixels[..., 1], pixels.shape[:2]
    step_y, step_x = max(1, height // LINE_SAMPLES), max(1, width // LINE_SAMPLES)
    outside = np.zeros((1, 1), bool) if around is None else around.outside
    rows = green[:, step_x // 2 :: step_x].astype(np.int16)
    columns = green[step_y // 2 :: step_y].T.astype(np.int16)
    return (
        _crosses(rows, outside.mean(1))
        or _crosses(columns, outside.mean(0))
        or _is_crossed_at_an_angle(overview[..., 1], None if around is None else outside)
    )


def _crosses(levels: NDArray[np.int16], outside: NDArray[np.float64]) -> bool:
    """Return whether a line runs along the rows (place, sample); `outside` is the share of each place outside.

    At its two edges most samples change the same way, which those of cells never do, or it is of one colour between.
    """
    n = len(levels)
    if n < 4 * LINE_LAG:
        return False
    change = levels[LINE_LAG:] - levels[:-LINE_LAG]
    share = (change > LINE_CHANGE).mean(1) - (change < -LINE_CHANGE).mean(1)
    if np.abs(share).max() < LINE_SHARE:
        typical = np.median(levels[:, ::4], axis=1).astype(np.int16)
        is_flat = (np.abs(levels - typical[:, None]) <= LINE_CHANGE).mean(1)
        before, after = is_flat[:-LINE_LAG], is_flat[LINE_LAG:]
        share = np.where(np.maximum(before, after) > 0.95, after - before, 0.0)
    edges = []
    for sign in (1, -1):
        runs, n_runs = ndimage.label(sign * share >= LINE_SHARE)
        edges += [((run.start + run.stop) / 2, sign) for (run,) in ndimage.find_objects(runs, max_label=n_runs)]
    edges.sort()
    for (first, sign), (second, other) in pairwise(edges):
        middle = (first + second) / 2 + LINE_LAG / 2
        if sign != other and second - first <= max(MOST_LINE_PX, MOST_LINE * n):
            if outside[min(int(middle * len(outside) / n), len(outside) - 1)] < 0.9:
                return True
    return False


def _is_crossed_at_an_angle(green: NDArray[np.uint8], outside: NDArray[np.bool_] | None) -> bool:
    """Return whether lines cross a small picture (y, x) at an angle: its spectrum then has a ray.

    Amplitudes are compared with others of the same frequency, and angles with those around; cells have none that
    stands out. The picture's own sides make rays along its axes.
    """
    if min(green.shape) < 64:
        return False
    seen, rings, turns, window = _spectrum_plan(green.shape)
    levels = green.astype(np.float32)
    middle = float(levels.mean() if outside is None or outside.all() else levels[~outside].mean())
    if outside is not None:
        levels = np.where(outside, np.float32(middle), levels)
    amplitude = np.log(np.abs(fft.rfft2((levels - middle) * window))[seen] + 1e-3)
    amplitude -= (np.bincount(rings, amplitude) / np.maximum(np.bincount(rings), 1))[rings]
    amplitude = np.clip(amplitude, -MOST_AMPLITUDE, MOST_AMPLITUDE)  # a lattice of cells has spots, not rays
    of_angle = np.bincount(turns, amplitude, N_ANGLES) / np.maximum(np.bincount(turns, minlength=N_ANGLES), 1)
    ray = of_angle - ndimage.median_filter(of_angle, 15, mode="wrap")
    from_axis = np.arange(N_ANGLES) % (N_ANGLES // 2)
    is_along_axis = np.minimum(from_axis, N_ANGLES // 2 - from_axis) <= 2
    return bool(ray[~is_along_axis].max() > LEAST_RAY)


@lru_cache(maxsize=4)
def _spectrum_plan(
    shape: tuple[int, int],
) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return which frequencies of a picture's spectrum are looked at, their rings and angles, and its window."""
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    frequency, angle = np.hypot(y, x), np.arctan2(y, x) % np.pi
    seen = (frequency > 0.06) & (frequency < 0.45)
    turns = (angle / np.pi * N_ANGLES).astype(np.intp) % N_ANGLES
    window = np.hanning(shape[0])[:, None] * np.hanning(shape[1])[None]
    return seen, (frequency * 200).astype(np.intp)[seen], turns[seen], window.astype(np.float32)
