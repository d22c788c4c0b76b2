"""Finds the cells of one tile of a slide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_bloodcell.core.errors import ModelError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.images.image import SlideImage
from napari_bloodcell.slides.context import Context
from napari_bloodcell.slides.work import pack_masks, write_arrays
from napari_bloodcell.stages.segment import paint_tile, segment_tile


def find_tile(context: Context, number: int) -> int:
    """Find the masks of a tile, save them, and return how many there are.

    Masks of overlapping tiles are saved as they are. Otherwise they are painted, and the tile's labels are saved with
    the mask behind each.
    """
    plan, params = context.plan, context.plan.recipe.segment
    tile = plan.tile(number)
    masks: list[CellMask] = []
    if not is_empty_glass(context.slide, tile.read, plan.calibration.rbc_diameter_px):
        masks = segment_tile(context.slide.pixels, tile, plan.calibration, params, context.generator)
    if len(masks) > plan.keys_per_tile:
        raise ModelError(f"{len(masks)} masks in the tile {tile.name} are too many; use larger tiles.")
    arrays = {}
    if not plan.overlap:
        labels, masks = paint_tile(masks, tile, plan.calibration, params)
        arrays["labels"] = labels.astype(np.uint16 if len(masks) < 2**16 else np.int32)
    write_arrays(context.work.tile_path(plan, number), {**pack_masks(masks), **arrays}, plan.tile_hash)
    return len(masks)


LOOK_PX = 4.0
"""Width of a red cell in the small picture of a tile; a platelet is a pixel or two."""
FLAT_RANGE = 7
"""Grey levels by which even glass varies once averaged. The palest platelet differs by more from its surroundings, and
so does a cell cut by the border."""


def is_empty_glass(slide: SlideImage, box: Box, rbc_diameter_px: float) -> bool:
    """Return whether a box (y0, x0, y1, x1) of a slide is empty glass, using coarse pyramid levels if there are any.

    Empty means hardly varying. A tile with any part of a cell is never that flat; one with dust or a shadow is not
    either, and goes to the model like any other.
    """
    level, shrink = slide.level_for(rbc_diameter_px / LOOK_PX)
    y0, x0, y1, x1 = box
    height, width = level.shape[:2]
    top, left = min(int(y0 / shrink), height - 1), min(int(x0 / shrink), width - 1)
    bottom, right = max(top + 1, min(int(np.ceil(y1 / shrink)), height)), max(left + 1, int(np.ceil(x1 / shrink)))
    return is_flat(level.read((top, left, bottom, min(right, width))), round(rbc_diameter_px / LOOK_PX / shrink))


def is_flat(image: NDArray[np.uint8], bin_px: int = 1) -> bool:
    """Return whether a (Y, X, 3) uint8 image hardly varies, averaged over squares of `bin_px` pixels."""
    bin_px = max(1, min(bin_px, *image.shape[:2]))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    # Squares from both corners: each set covers the margin that the other leaves over.
    for view in (image, image[::-1, ::-1]):
        starts = np.arange(view.shape[0] // bin_px) * bin_px
        # Distant rows first: in a tile with cells a few of them suffice.
        for y in np.concatenate([starts[i::7] for i in range(7)]).tolist():
            means = _square_means(view[y : y + bin_px], bin_px)
            low, high = np.minimum(low, means.min(0)), np.maximum(high, means.max(0))
            if (high - low > FLAT_RANGE).any():
                return False
    return True


def _square_means(rows: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Return the mean colours (N, 3) of the squares in `side` rows."""
    width = rows.shape[1] // side
    total = rows.sum(0, dtype=np.uint32)[: width * side].reshape(width, side, 3).sum(1)
    return np.asarray(total / side**2, np.float64)
