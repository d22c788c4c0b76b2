"""Puts the blocks of a slide together: ids 1..N and one table of cells."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, table_of_measured, type_lut, type_names
from napari_bloodcell.core.errors import OutputError
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.results.pyramid import CELLS, TYPES
from napari_bloodcell.slides.blocks import block_labels
from napari_bloodcell.slides.context import Context
from napari_bloodcell.slides.work import Arrays, WorkFolder, read_arrays, write_arrays
from napari_bloodcell.stages.calibration import note_rim
from napari_bloodcell.stages.classify import decide_types
from napari_bloodcell.stages.quality.measures import CELL_SUMS, TILE_SUMS, Grid, Sums

_KEPT = ("key", "area", "sums", "bbox", "point", "mask_bbox", "quality", "probabilities")
_OF_SUMS = ("sums_key", "sums_of_cells", "sums_tile", "sums_of_tiles")


@dataclass(frozen=True, eq=False)
class Numbers:
    """Ids of a slide's cells: `keys` rise, `ids` belong to them, `codes` is the type's code by id."""

    keys: NDArray[np.int32]
    ids: NDArray[np.int32]
    codes: NDArray[np.uint8]

    @property
    def digest(self) -> str:
        """Hash that marks blocks painted with these ids."""
        return hashlib.sha256(self.keys.tobytes() + self.ids.tobytes() + self.codes.tobytes()).hexdigest()


def number_cells_of_slide(work: WorkFolder, plan: Plan) -> tuple[pd.DataFrame, Numbers, Sums]:
    """Return the cells of all blocks as one table with ids and types, the numbers to paint them with, and their sums.

    Ids follow the prompts in reading order, as they do in memory.
    """
    blocks, proposed = _gather(work, plan)
    joined = {name: np.concatenate([b[name] for b in blocks]) for name in (*_KEPT, *_OF_SUMS)}
    del blocks
    boxes, points = joined["mask_bbox"], joined["point"]
    order = np.argsort(joined["key"], kind="stable")
    if plan.overlap:
        order = np.lexsort((*boxes.T[::-1], points[:, 1], points[:, 0]))
    c = {name: joined[name][order] for name in _KEPT}
    seen = {name: joined[name] for name in _OF_SUMS}
    del joined, boxes, points
    n = len(order)
    columns = {
        "area_px": c["area"],
        **dict(zip(BOX, c["bbox"].T, strict=True)),
        "y_sum": c["sums"][:, 0],
        "x_sum": c["sums"][:, 1],
    }
    cells = table_of_measured(
        pd.DataFrame(columns, index=np.arange(1, n + 1)),
        plan.shape,
        predicted_iou=c["quality"][:, 0],
        stability_score=c["quality"][:, 1],
        proposed_type=proposed[order],
        proposed_probability=c["quality"][:, 2],
    )
    note_rim(cells, plan.calibration)
    decide_types(cells, cells.index, c["probabilities"], plan.classes, params=plan.recipe.classify)
    by_key = np.argsort(c["key"], kind="stable")
    codes = type_lut(cells, type_names(plan.classes), n)
    numbers = Numbers(c["key"][by_key].astype(np.int32), (by_key + 1).astype(np.int32), codes)
    tiles = np.zeros((len(Grid.of(plan.shape, plan.calibration).boxes), len(TILE_SUMS)), np.int64)
    np.add.at(tiles, seen["sums_tile"], seen["sums_of_tiles"])
    ids = numbers.ids[np.searchsorted(numbers.keys, seen["sums_key"])] if n else np.empty(0, np.int64)
    of_cells = pd.DataFrame(seen["sums_of_cells"], pd.Index(ids.astype(np.int64), name="id"), list(CELL_SUMS))
    return cells, numbers, Sums(of_cells.groupby(level=0).sum(), tiles)


def write_numbers(work: WorkFolder, numbers: Numbers) -> None:
    """Save the ids for `paint_block`."""
    arrays: Arrays = {"keys": numbers.keys, "ids": numbers.ids, "codes": numbers.codes}
    write_arrays(_numbers_path(work), arrays, "numbers")


def paint_block(context: Context, number: int, digest: str) -> int:
    """Write the ids and types of a block's pixels into the OME-Zarr, unless that is done already."""
    plan, box = context.plan, context.plan.block(number)
    marker = context.work.path / "painted" / f"{number:08d}.npz"
    if read_arrays(marker, digest) is not None:
        return 0
    path = _numbers_path(context.work)
    numbers = _read_numbers(path, path.stat().st_mtime_ns)
    arrays = _block(context.work, plan, number)
    keys = arrays["all_keys"]
    ids = np.zeros(len(keys) + 1, np.int32)
    if len(keys):
        place = np.minimum(np.searchsorted(numbers.keys, keys), len(numbers.keys) - 1)
        if not np.array_equal(numbers.keys[place], keys):
            raise OutputError(
                f"The work on block {number} in {context.work.path} is contradictory. Remove it and run again."
            )
        ids[1:] = numbers.ids[place]
    labels = block_labels(arrays, box)
    context.pyramids.write_block(CELLS, ids[labels], box)
    context.pyramids.write_block(TYPES, numbers.codes[ids][labels], box)
    write_arrays(marker, {}, digest)
    return len(keys)


def _gather(work: WorkFolder, plan: Plan) -> tuple[list[Arrays], NDArray[np.object_]]:
    """Return the blocks' columns, and the types proposed by the generator."""
    blocks, proposed = [], [np.empty(0, object)]
    for number in range(plan.n_blocks):
        arrays = _block(work, plan, number)
        blocks.append({name: arrays[name] for name in (*_KEPT, *_OF_SUMS)})
        known = np.array([str(name) for name in arrays["proposed_names"]], object)
        proposed.append(known[arrays["proposed"]])
    return blocks, np.concatenate(proposed)


def _block(work: WorkFolder, plan: Plan, number: int) -> Arrays:
    arrays = read_arrays(work.block_path(plan, number), plan.block_hash)
    if arrays is None:
        raise OutputError(f"The work on block {number} in {work.path} is missing; it was removed. Run it again.")
    return arrays


def _numbers_path(work: WorkFolder) -> Path:
    return work.path / "numbers.npz"


@lru_cache(maxsize=1)
def _read_numbers(path: Path, _stamp: int) -> Numbers:
    arrays = read_arrays(path, "numbers")
    if arrays is None:
        raise OutputError(f"{path} is missing or damaged. Run it again.")
    return Numbers(arrays["keys"], arrays["ids"], arrays["codes"])
