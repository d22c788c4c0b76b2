"""Finding the cells of one tile of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_bloodcell.errors import ModelError
from napari_bloodcell.masks import drop_repeated, paint
from napari_bloodcell.segment import moved, segment_tile
from napari_bloodcell.slides.empty import is_empty_glass
from napari_bloodcell.slides.masks_file import pack_masks
from napari_bloodcell.slides.work import write_arrays

if TYPE_CHECKING:
    from napari_bloodcell.protocols import CellMask
    from napari_bloodcell.slides.site import Site


def find_tile(site: Site, number: int) -> int:
    """Find the masks of a tile, put them on disk, and return how many there are.

    Where tiles overlap, the masks that the tile owns are kept as they are. Where they do not, they are painted, and
    the labels of the tile are kept, with the mask behind each.

    Raises
    ------
    OutputError
        If they cannot be written.
    Exception
        Whatever the generator raises.
    """
    plan, params = site.plan, site.plan.recipe.segment
    tile = plan.tile(number)
    diameter = plan.calibration.rbc_diameter_px
    masks: list[CellMask] = []
    if not is_empty_glass(site.slide, tile.read, diameter):
        masks = segment_tile(site.slide.pixels, tile, plan.calibration, params, site.generator)
    if len(masks) > plan.keys_per_tile:
        raise ModelError(f"{len(masks)} masks in the tile {tile.name} are too many; use larger tiles.")
    arrays = {}
    if not plan.overlap:
        kept = drop_repeated(masks, rbc_diameter_px=diameter, overlap_max=params.overlap_max)
        y0, x0, y1, x1 = tile.core
        labels, order = paint([moved(m, -y0, -x0) for m in kept], (y1 - y0, x1 - x0))
        masks = [kept[i] for i in order]
        arrays["labels"] = labels.astype(np.uint16 if len(masks) < 2**16 else np.int32)
    write_arrays(site.work.tile_path(plan, number), {**pack_masks(masks), **arrays}, plan.tile_hash)
    return len(masks)
