"""The cells of one block of a slide: painted whole, measured and classified."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, boxes_of, measure, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, grown, shared_box, slices_of
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.pyramid import CELLS, IMAGE, TYPES
from napari_bloodcell.slides.context import Context
from napari_bloodcell.slides.joined import Joined
from napari_bloodcell.slides.neighbours import masks_to_paint
from napari_bloodcell.slides.work import Arrays, write_arrays
from napari_bloodcell.stages.classify import iter_probabilities
from napari_bloodcell.stages.masks import paint_box
from napari_bloodcell.stages.quality.measures import Grid, measure_part


class Painted(NamedTuple):
    """Cells of part of a slide: labels (Y, X) 1..n of `region`, and for each label its key and the mask behind it."""

    region: Box
    labels: NDArray[np.int32]
    keys: NDArray[np.int64]
    origins: Sequence[CellMask]


def settle_block(context: Context, number: int, failed: frozenset[int] = frozenset()) -> int:
    """Paint, measure and classify the cells whose box begins in a block, and return how many there are.

    Results go to disk, and a preview into the OME-Zarr, with keys instead of ids and types without context. `failed`
    are tiles that have no masks because they failed. Raises `TileNotDone` if a tile it needs is not done.
    """
    plan = context.plan
    context.without(failed)
    box = plan.block(number)
    grid = Grid.of(plan.shape, plan.calibration)
    around = grown(box, grid.margin_px, plan.shape)  # so far away, pixels and cells decide about the quality
    painted = _paint_masks(context, around) if plan.overlap else _paint_joined(context, around)
    image = _read(context, painted.region, failed)
    measured = _measure_owned(painted, box)
    owned = measured.index.to_numpy() - 1
    probabilities = _look_at(context, image, painted, measured)
    inner = slices_of(box, painted.region[:2])
    labels = painted.labels[inner].astype(np.uint16 if len(painted.keys) < 2**16 else np.int32)
    masks = [painted.origins[i] for i in owned]
    names = np.array(sorted({m.cell_type or "" for m in masks} | {""}))
    core = np.ascontiguousarray(image[inner])
    sums = measure_part(image, painted.labels, (painted.region[0], painted.region[1]), box, grid, plan.calibration)
    seen_tiles = np.flatnonzero(sums.tiles.any(1))
    arrays: Arrays = {
        "labels": np.frombuffer(_codec().compress(np.ascontiguousarray(labels), asbytes=True), np.uint8),
        "all_keys": painted.keys,
        "key": painted.keys[owned],
        "area": measured["area_px"].to_numpy(np.int64),
        "sums": measured[["y_sum", "x_sum"]].to_numpy(np.float64),
        "bbox": boxes_of(measured),
        "point": np.array([m.point for m in masks], np.float64).reshape(-1, 2),
        "mask_bbox": np.array([m.bbox for m in masks], np.int64).reshape(-1, 4),
        "quality": np.array([(m.predicted_iou, m.stability_score, m.type_probability) for m in masks]).reshape(-1, 3),
        "proposed": np.searchsorted(names, [m.cell_type or "" for m in masks]).astype(np.int16),
        "proposed_names": names,
        "probabilities": probabilities,
        "sums_key": painted.keys[sums.cells.index.to_numpy() - 1],
        "sums_of_cells": sums.cells.to_numpy(np.int64),
        "sums_tile": seen_tiles,
        "sums_of_tiles": sums.tiles[seen_tiles],
        # If cells are joined over all tiles, any tile may change their ids.
        "failed": np.array(sorted(failed & set(plan.tiles_reading(painted.region)) if plan.overlap else failed)),
    }
    if context.must_copy_image:
        context.pyramids.write_block(IMAGE, np.moveaxis(core, -1, 0), box)
    codes = np.zeros(len(painted.keys) + 1, np.uint8)
    codes[owned + 1] = _first_codes(probabilities, plan)
    keys = np.concatenate([[0], painted.keys]).astype(np.int32)
    context.pyramids.write_block(CELLS, keys[labels], box)
    context.pyramids.write_block(TYPES, codes[labels], box)
    write_arrays(context.work.block_path(plan, number), arrays, plan.block_hash)
    return len(owned)


def _read(context: Context, region: Box, failed: frozenset[int]) -> NDArray[np.uint8]:
    """Return the image of a region, (y, x, 3); white if a tile failed and its pixels cannot be read."""
    try:
        return context.slide.read(region)
    except InputError:
        if not failed:
            raise
    image = np.full((region[2] - region[0], region[3] - region[1], 3), 255, np.uint8)
    for number in context.plan.tiles_reading(region):
        part = shared_box(context.plan.tile(number).core, region)
        if part is not None:
            with suppress(InputError) if number in failed else nullcontext():
                image[slices_of(part, region[:2])] = context.slide.read(part)
    return image


def block_labels(arrays: Arrays, box: Box) -> NDArray[Any]:
    """Return a block's labels, (Y, X), as saved by `settle_block`: label i is the i-th of `all_keys`."""
    dtype = np.dtype(np.uint16 if len(arrays["all_keys"]) < 2**16 else np.int32)
    shape = (box[2] - box[0], box[3] - box[1])
    content = _codec().decompress(arrays["labels"].tobytes(), shape[0] * shape[1] * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape)


def _codec() -> Any:
    import pyarrow

    return pyarrow.Codec("zstd", compression_level=1)


def _paint_masks(context: Context, box: Box) -> Painted:
    """Paint the masks of overlapping tiles, which saw their cells whole."""
    found, region = masks_to_paint(context.nearby, box, context.plan)
    key_of = {id(m.mask): m.key for m in found}
    labels, masks = paint_box([m.mask for m in found], region)
    return Painted(region, labels, np.array([key_of[id(m)] for m in masks], np.int64), masks)


def _paint_joined(context: Context, box: Box) -> Painted:
    """Put tiles that do not overlap side by side, with cells cut by their borders joined."""
    joined = Joined.read(context.work, context.plan)
    region = joined.region_of(box, context.plan.shape)
    keys = joined.paint(context.work, context.plan, region)
    present = np.unique(keys[keys > 0])
    labels = np.where(keys > 0, np.searchsorted(present, keys) + 1, 0).astype(np.int32)
    return Painted(region, labels, present.astype(np.int64), [joined.masks[i - 1] for i in present.tolist()])


def _measure_owned(painted: Painted, box: Box) -> pd.DataFrame:
    """Measure the cells that begin in the block, in pixels of the slide; index = label."""
    measured = measure(painted.labels, painted.region[:2])
    begins = boxes_of(measured)[:, :2]
    return measured.iloc[np.flatnonzero((begins >= box[:2]).all(1) & (begins < box[2:]).all(1))]


def _look_at(
    context: Context, image: NDArray[np.uint8], painted: Painted, measured: pd.DataFrame
) -> NDArray[np.float32]:
    """Return the classifier's probabilities (N, K) for measured cells."""
    params, calibration = context.plan.recipe.classify, context.plan.calibration
    here, corner = measured.copy(), painted.region[:2]
    here[list(BOX)] -= np.tile(corner, 2)
    looks = iter_probabilities(
        image, painted.labels, here, context.classifier, calibration, params.batch_size, corner=corner
    )
    return np.concatenate([np.zeros((0, len(context.plan.classes)), np.float32), *(found for _, found in looks)])


def _first_codes(probabilities: NDArray[np.float32], plan: Plan) -> NDArray[np.uint8]:
    """Return the type codes (N,) before the context is weighed in."""
    names = type_names(plan.classes)
    codes = np.array([names.index(name) + 1 for name in plan.classes], np.uint8)
    return codes[probabilities.argmax(1)] if len(probabilities) else np.empty(0, np.uint8)
