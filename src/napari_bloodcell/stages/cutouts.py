"""Cutouts of cells: mask ∧ image within the cell's box, centred on black (paper §4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_bloodcell.core.cells import BOX, boxes_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, box_of_mask, slices_of
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.stages.calibration import smear_in

CUTOUT_SIZE = 128
"""Side of a cutout, pixels (paper §4.2)."""
GLASS_LEVEL = 235.0
"""Level to which the empty glass is brought if a classifier asks for it, 0 to 255."""
RED_LEVEL = (202.0, 166.0, 183.0)
"""Colour to which a smear's typical red cell is brought if a classifier asks for it, with glass at `GLASS_LEVEL`."""
GAINS = (0.1, 4.0)
"""Range of the gain of optical densities: more would only amplify the noise of a pale smear."""
ORDINARY = np.array(((0.066, 0.479), (0.144, 0.698), (0.098, 0.366), (0.396, 0.969), (0.322, 0.921)))
"""Optical density of red cells in R, G and B, and its ratios R/G and B/G: 1st and 99th percentile of the 1,294 images
that the embedded classifier was trained on. It types these best as they are, and smears of other stains once they are
brought to `RED_LEVEL`: of the red cells of 80 malaria fields 0.7 % are typed WBC then, and 23 % as they are."""

RGB = tuple[float, float, float]


def cut_out(
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    table_or_ids: pd.DataFrame | Sequence[int] | NDArray[np.integer],
    *,
    size: int = CUTOUT_SIZE,
    scale: float = 1.0,
    background_rgb: ArrayLike | None = None,
    glass_level: float = GLASS_LEVEL,
    red_rgb: RGB | None = None,
    red_level: RGB | None = None,
) -> NDArray[np.uint8]:
    """Cut cells out of an image: the pixels of each cell, centred and zero-padded, as (N, size, size, 3) uint8.

    The paper cuts at the image's own scale: ``scale=1`` and no `background_rgb`.

    Parameters
    ----------
    image : ndarray of uint8, shape (Y, X, 3)
        The smear, read only within the boxes of the cells.
    cells : ndarray of int, shape (Y, X)
        Label image, 0 background.
    table_or_ids : DataFrame or sequence of int
        A cell table (index = id, columns `bbox_y0` …), which spares a search for the boxes, or ids.
    size : int
        Side of a cutout, pixels.
    scale : float
        Factor by which cells are resampled first; a cell that is then larger than `size` is shrunk to fit.
    background_rgb : sequence of 3 floats, optional
        Colour of the empty glass, 0 to 255. Each channel is multiplied so that glass becomes `glass_level`,
        which removes the tint; cell pixels stay at least 1, so that the cell's shape stays readable.
    red_rgb, red_level : tuple of 3 floats, optional
        Colour of the smear's typical red cell, 0 to 255, and the colour it is brought to, with glass at `glass_level`,
        unless its stain is `ORDINARY`: each channel's optical densities are multiplied.
    """
    ids, boxes = _ids_and_boxes(image, cells, table_or_ids)
    lut = colour_lut(background_rgb, glass_level, red_rgb, red_level)
    _check_geometry(size, scale)
    out = np.zeros((len(ids), size, size, 3), np.uint8)
    for i, (cell, box) in enumerate(zip(ids, boxes, strict=True)):
        _cut_one(out[i], image, cells, int(cell), box, scale, lut)
    return out


def centre_cutout(
    cutout: NDArray[np.uint8],
    size: int = CUTOUT_SIZE,
    scale: float = 1.0,
    *,
    background_rgb: ArrayLike | None = None,
    glass_level: float = GLASS_LEVEL,
    red_rgb: RGB | None = None,
    red_level: RGB | None = None,
    in_any_stain: bool = False,
) -> NDArray[np.uint8]:
    """Return a masked picture of one cell (any height and width, black outside) as a (size, size, 3) cutout.

    The cell's box is found from its pixels, resampled by `scale`, shrunk if it still does not fit, and centred.
    The colours are those of `cut_out`; `in_any_stain`, those of `cut_windows`.
    """
    out = np.zeros((size, size, 3), np.uint8)
    crop = tight(cutout)
    if crop.size:
        lut = colour_lut(background_rgb, glass_level, red_rgb, red_level, in_any_stain=in_any_stain)
        _place(out, *resample(crop, np.any(crop, axis=-1), scale, size), lut)
    return out


def cut_windows(
    image: Any,
    table: pd.DataFrame,
    calibration: Calibration,
    *,
    size: int,
    rbc_diameter_px: float,
    glass_level: float,
    red_level: RGB | None,
) -> NDArray[np.uint8]:
    """Cut out what lies around the middle of each cell's box in a smear; beyond the image there is glass.

    Parameters
    ----------
    image : array-like of uint8, shape (Y, X, 3)
        The smear, sliced window by window.
    table : DataFrame
        Cell table; only its boxes are used.
    calibration : Calibration
        Of the smear.
    size : int
        Side of a window, pixels.
    rbc_diameter_px, glass_level, red_level
        Width and colour of a red cell in the windows (None: its own), and level of their glass.

    Returns
    -------
    ndarray of uint8, shape (N, size, size, 3)
        In the order of the table's rows.
    """
    side = max(1, round(size * calibration.rbc_diameter_px / rbc_diameter_px))
    weights = _triangle_weights(side, size)
    red = calibration.red_rgb
    lut = colour_lut(calibration.background_rgb, glass_level, red, red_level, in_any_stain=True)
    out = np.empty((len(table), size, size, 3), np.uint8)
    for window, whole in zip(out, cut_surroundings(image, table, calibration, side), strict=True):
        whole = whole if lut is None else lut[np.arange(3), whole]
        planes = weights @ (whole.transpose(2, 0, 1).astype(np.float32) @ weights.T)
        window[:] = np.rint(planes).clip(0, 255).transpose(1, 2, 0)
    return out


def cut_surroundings(
    image: Any, table: pd.DataFrame, calibration: Calibration, side: int
) -> Iterator[NDArray[np.uint8]]:
    """Yield the square (side, side, 3) uint8 around each cell of a table; beyond the image there is glass."""
    boxes = boxes_of(table)
    for y, x in ((boxes[:, :2] + boxes[:, 2:] - side) // 2).tolist():
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + side, image.shape[0]), min(x + side, image.shape[1])
        whole = np.full((side, side, 3), np.rint(calibration.background_rgb), np.uint8)
        whole[y0 - y : y1 - y, x0 - x : x1 - x] = smear_in(np.asarray(image[y0:y1, x0:x1]), (y0, x0), calibration)
        yield whole


def tight(cutout: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a masked picture of one cell (H, W, 3) without the black around it; (0, 0, 3) if it is all black."""
    box = box_of_mask(np.any(cutout, axis=-1))
    return cutout[:0, :0] if box is None else cutout[slices_of(box)]


def resample(
    crop: NDArray[np.uint8], mask: NDArray[np.bool_], scale: float, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a crop (H, W, 3) and its mask (H, W) resampled by `scale`, or by less if `size` would be exceeded.

    Only pixels of the mask contribute to the rim of the resampled cell, and the mask stays binary.
    """
    height, width = mask.shape
    factor = min(scale, size / max(height, width))
    shape = (max(1, min(size, round(width * factor))), max(1, min(size, round(height * factor))))
    if shape == (width, height):
        return crop, mask
    planes = np.empty((4, height, width), np.float32)
    np.multiply(crop.transpose(2, 0, 1), mask, out=planes[:3])
    planes[3] = mask
    resampled = _triangle_weights(height, shape[1]) @ (planes @ _triangle_weights(width, shape[0]).T)
    colours, cover = resampled[:3], resampled[3]
    colours /= np.maximum(cover, 1e-6)
    inside = cover >= 0.5
    if not inside.any():
        inside = cover >= cover.max()
    return np.rint(colours, out=colours).clip(0, 255, out=colours).astype(np.uint8).transpose(1, 2, 0), inside


@lru_cache(maxsize=256)
def _triangle_weights(n_in: int, n_out: int) -> NDArray[np.float32]:
    """Return the weights (n_out, n_in) of a triangle filter, widened to an output pixel when shrinking."""
    step = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * step - 0.5
    distance = np.abs(np.arange(n_in)[None, :] - centre[:, None]) / max(1.0, step)
    weights = np.clip(1.0 - distance, 0.0, None)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _cut_one(
    out: NDArray[np.uint8],
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    cell: int,
    box: Box,
    scale: float,
    lut: NDArray[np.uint8] | None,
) -> None:
    y0, x0, y1, x1 = box
    window = (slice(y0, y1), slice(x0, x1))
    crop, mask = resample(np.asarray(image[window]), np.asarray(cells[window]) == cell, scale, out.shape[0])
    _place(out, crop, mask, lut)


def _place(
    out: NDArray[np.uint8], crop: NDArray[np.uint8], mask: NDArray[np.bool_], lut: NDArray[np.uint8] | None
) -> None:
    """Write a masked crop into the middle of a black cutout."""
    if lut is not None:
        crop = lut[np.arange(3), crop]
    height, width = mask.shape
    y, x = (out.shape[0] - height) // 2, (out.shape[1] - width) // 2
    np.multiply(crop, mask[..., None], out=out[y : y + height, x : x + width], dtype=np.uint8)


def colour_lut(
    background_rgb: ArrayLike | None,
    glass_level: float,
    red_rgb: RGB | None,
    red_level: RGB | None,
    *,
    in_any_stain: bool = False,
) -> NDArray[np.uint8] | None:
    """Return the (3, 256) table that brings glass and red cells to the levels that are wanted, or None.

    Red cells of an `ORDINARY` stain keep their colour unless `in_any_stain`.
    """
    if background_rgb is None:
        return None
    colour = np.asarray(background_rgb, float)
    if colour.shape != (3,) or not np.isfinite(colour).all() or (colour < 0).any() or (colour > 255).any():
        raise InputError(f"background_rgb is {background_rgb!r}; give three numbers from 0 to 255.")
    glass = np.maximum(colour, 16.0)[:, None]
    transmitted: NDArray[np.float64] = np.arange(256)[None, :] / glass
    if red_rgb is not None and red_level is not None:
        density = -np.log((np.array(red_rgb)[:, None] / glass).clip(0.01, 0.98))
        if in_any_stain or not _is_ordinary(density[:, 0]):
            transmitted **= (-np.log(np.array(red_level)[:, None] / glass_level) / density).clip(*GAINS)
    return np.clip(np.rint(transmitted * glass_level), 1, 255).astype(np.uint8)


def _is_ordinary(density: NDArray[np.float64]) -> bool:
    measures = _measures_of_stain(density)
    return bool(((measures >= ORDINARY[:, 0]) & (measures <= ORDINARY[:, 1])).all())


def _measures_of_stain(density: NDArray[np.float64]) -> NDArray[np.float64]:
    red, green, blue = density
    return np.array((red, green, blue, red / green, blue / green))


def measures_of_smear(calibration: Calibration) -> dict[str, float]:
    """Return the width of a smear's red cell, pixels, and its stain, if measured: densities R, G, B, R/G, B/G."""
    measures = {"width of a red cell, px": float(calibration.rbc_diameter_px)}
    if calibration.red_rgb is not None:
        glass = np.maximum(calibration.background_rgb, 16.0)
        stain = _measures_of_stain(-np.log((np.array(calibration.red_rgb) / glass).clip(0.01, 0.98)))
        names = ("density in red", "density in green", "density in blue", "red to green", "blue to green")
        measures |= dict(zip(names, stain.tolist(), strict=True))
    return measures


def unlike_training(seen: Mapping[str, Sequence[float]], calibration: Calibration) -> list[str]:
    """Return what of a smear lies outside of the ranges (low, high) that a model was trained on."""
    found = measures_of_smear(calibration)
    return [
        f"{name} {found[name]:.3g}, seen {low:.3g} to {high:.3g}"
        for name, (low, high) in seen.items()
        if name in found and not low <= found[name] <= high
    ]


def _check_geometry(size: int, scale: float) -> None:
    if size < 1:
        raise InputError(f"size is {size}; give at least 1 pixel.")
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}; give a number above 0.")


def _ids_and_boxes(
    image: NDArray[np.uint8],
    cells: NDArray[np.integer],
    table_or_ids: pd.DataFrame | Sequence[int] | NDArray[np.integer],
) -> tuple[NDArray[np.int64], list[Box]]:
    """Return the ids to cut and their boxes, checked against image and label image."""
    if len(image.shape) != 3 or image.shape[2] != 3:
        raise InputError(f"The image has shape {tuple(image.shape)}; cutouts need (Y, X, 3).")
    if tuple(cells.shape) != tuple(image.shape[:2]):
        raise InputError(f"Cells of shape {tuple(cells.shape)} do not fit an image of shape {tuple(image.shape)}.")
    if isinstance(table_or_ids, pd.DataFrame) and BOX[0] in table_or_ids:
        ids = table_or_ids.index.to_numpy(np.int64)
        return ids, [
            _checked_box(b, cells.shape, int(i)) for i, b in zip(ids, boxes_of(table_or_ids).tolist(), strict=True)
        ]
    source = table_or_ids.index if isinstance(table_or_ids, pd.DataFrame) else table_or_ids
    ids = np.asarray(source, np.int64).reshape(-1)
    found = ndimage.find_objects(cells) if ids.size else []
    boxes: list[Box] = []
    for i in ids:
        window = found[i - 1] if 1 <= i <= len(found) else None
        if window is None:
            raise InputError(f"There is no cell {i} in the label image.")
        boxes.append((window[0].start, window[1].start, window[0].stop, window[1].stop))
    return ids, boxes


def _checked_box(box: Sequence[int], shape: Sequence[int], cell: int) -> Box:
    y0, x0, y1, x1 = (int(v) for v in box)
    if not (0 <= y0 < y1 <= shape[0] and 0 <= x0 < x1 <= shape[1]):
        raise InputError(f"Cell {cell} has the box {tuple(box)}, which is not within an image of {tuple(shape)}.")
    return y0, x0, y1, x1
