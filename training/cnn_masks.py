"""Masks and surroundings of the cells that the embedded classifier is trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from napari_bloodcell.core.cells import boxes_of
from napari_bloodcell.stages.calibration import background_colour
from napari_bloodcell.stages.cutouts import GLASS_LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

RBC, WBC, PLATELET = range(3)
CANVAS_PX = 96


def normalised(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Return an image resampled by `scale`, its glass at `GLASS_LEVEL`."""
    glass = background_colour(image)
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR), np.float64)
    return np.clip(np.rint(small * (GLASS_LEVEL / np.maximum(glass, 16))), 1, 255).astype(np.uint8)


def ellipse(box: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.bool_], tuple[int, int]] | None:
    """Return the ellipse in a box as (mask, corner), clipped to the image."""
    y0, x0 = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    y1, x1 = min(shape[0], int(np.ceil(box[2]))), min(shape[1], int(np.ceil(box[3])))
    if y1 - y0 < 2 or x1 - x0 < 2:
        return None
    yy, xx = np.mgrid[y0:y1, x0:x1] + 0.5
    inside = ((2 * yy - box[0] - box[2]) / (box[2] - box[0])) ** 2 + (
        (2 * xx - box[1] - box[3]) / (box[3] - box[1])
    ) ** 2 <= 1
    return (inside, (y0, x0)) if inside.any() else None


def resampled_mask(
    mask: NDArray[np.bool_], corner: tuple[int, int], scale: float
) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return a mask and its corner at another scale."""
    size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
    cover = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR))
    return cover >= min(128, int(cover.max())), (round(corner[0] * scale), round(corner[1] * scale))


def clumps(masks: list[Any], boxes: NDArray[np.float64], scale: float, rng: np.random.Generator) -> list[Any]:
    """Return unions of a cell with an RBC that touches it, as a segmenter may give them: the type is the rarer one."""
    clumps = []
    for i in np.nonzero(boxes[:, 0] != PLATELET)[0]:
        is_wbc = boxes[i, 0] == WBC
        if rng.random() > (0.35 if is_wbc else 0.08):
            continue
        a = boxes[i, 1:]
        touching = [
            j
            for j in np.nonzero(boxes[:, 0] == RBC)[0]
            if j != i and box_iou(a, boxes[j, 1:]) > 0 and masks[j] and masks[i]
        ]
        if not touching:
            continue
        j = int(rng.choice(touching))
        union, corner = _union(masks[i], masks[j])
        if max(union.shape) <= CANVAS_PX:
            clumps.append((union, corner, WBC if is_wbc else RBC))
    return clumps


def _union(a: Any, b: Any) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    y0, x0 = min(a[1][0], b[1][0]), min(a[1][1], b[1][1])
    y1 = max(m.shape[0] + c[0] for m, c in (a, b))
    x1 = max(m.shape[1] + c[1] for m, c in (a, b))
    out = np.zeros((y1 - y0, x1 - x0), bool)
    for m, (y, x) in (a, b):
        out[y - y0 : y - y0 + m.shape[0], x - x0 : x - x0 + m.shape[1]] |= m
    return out, (y0, x0)


def box_iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the IoU of two boxes (y0, x0, y1, x1)."""
    h, w = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(h, 0.0) * max(w, 0.0)
    return float(inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter))


def real_masks(segmentation: Any, boxes: NDArray[np.float64], scale: float) -> list[Any]:
    """Return the segmenter's cells that a labelled box matches with IoU ≥ 0.5, with the box's class."""
    objects = []
    table = segmentation.table
    for cell, box in zip(table.index, boxes_of(table).tolist(), strict=True):
        overlaps = [box_iou(np.asarray(box, float), b) for b in boxes[:, 1:]]
        if overlaps and max(overlaps) >= 0.5:
            y0, x0, y1, x1 = box
            mask = np.asarray(segmentation.cells[y0:y1, x0:x1]) == cell
            mask, corner = (mask, (y0, x0)) if scale == 1.0 else resampled_mask(mask, (y0, x0), scale)
            objects.append((mask, corner, int(boxes[int(np.argmax(overlaps)), 0])))
    return objects


def canvas(image: NDArray[np.uint8], mask: NDArray[np.bool_], corner: tuple[int, int]) -> NDArray[np.uint8]:
    """Return a cell in the middle of its surroundings; beyond the image there is glass."""
    out = np.full((CANVAS_PX, CANVAS_PX, 4), np.uint8(GLASS_LEVEL))
    out[..., 3] = 0
    y = corner[0] + mask.shape[0] // 2 - CANVAS_PX // 2
    x = corner[1] + mask.shape[1] // 2 - CANVAS_PX // 2
    for source, (top, left), channels in (
        (image, (0, 0), slice(0, 3)),
        (mask[..., None] * np.uint8(255), corner, slice(3, 4)),
    ):
        y0, x0 = max(y, top), max(x, left)
        y1, x1 = min(y + CANVAS_PX, top + source.shape[0]), min(x + CANVAS_PX, left + source.shape[1])
        if y1 > y0 and x1 > x0:
            out[y0 - y : y1 - y, x0 - x : x1 - x, channels] = source[y0 - top : y1 - top, x0 - left : x1 - left]
    return out


def stain(image: NDArray[np.uint8], red_cells: list[Any]) -> NDArray[np.float32]:
    """Return the median optical density of the red cells of a field, (3,)."""
    if not red_cells:
        return np.array([0.15, 0.35, 0.25], np.float32)
    values = []
    for mask, (y, x), _ in red_cells[:12]:
        crop = image[y : y + mask.shape[0], x : x + mask.shape[1]]
        values.append(np.median(crop[mask[: crop.shape[0], : crop.shape[1]]], axis=0))
    return (-np.log(np.clip(np.median(values, axis=0) / GLASS_LEVEL, 0.02, 0.98))).astype(np.float32)
