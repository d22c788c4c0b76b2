"""Joins cells cut by the borders of tiles that do not overlap, over a whole slide (paper §3.6)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import Box, grown, shared_box, slices_of, union_of
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.slides.neighbours import TileNotDone
from napari_bloodcell.slides.work import WorkFolder, pack_masks, read_arrays, unpack_masks, write_arrays
from napari_bloodcell.stages.stitch import number_cells, parts_of_one_cell

_PIXEL = np.ones((1, 1), bool)


@dataclass(frozen=True, eq=False)
class Joined:
    """Which parts of cells, tile by tile, are which cell.

    `offset` (tiles + 1,) is the number of parts in the tiles before each tile, `new_id` (parts,) the id 1..N of each
    part's cell, `bbox` (N, 4) the boxes of the cells, all int64. `masks` holds the generator's figures for the largest
    part of each cell, without pixels.
    """

    offset: NDArray[np.int64]
    new_id: NDArray[np.int64]
    bbox: NDArray[np.int64]
    masks: list[CellMask]

    @classmethod
    def read(cls, work: WorkFolder, plan: Plan) -> Joined:
        """Return what `join_slide` saved; `TileNotDone` if it has not run yet."""
        path = _path(work)
        if not path.exists():
            raise TileNotDone("The cells cut by tile borders are not joined yet.")
        return _read(path, path.stat().st_mtime_ns, plan.tile_hash)

    def region_of(self, box: Box, shape: tuple[int, int]) -> Box:
        """Return the smallest box around `box` and all cells that reach into it."""
        y0, x0, y1, x1 = box
        b = self.bbox
        hit = b[(b[:, 0] < y1) & (b[:, 2] > y0) & (b[:, 1] < x1) & (b[:, 3] > x0)]
        return grown(union_of([box, *hit.tolist()]), 0, shape)

    def paint(self, work: WorkFolder, plan: Plan, box: Box) -> NDArray[np.int64]:
        """Return the cell id of each pixel of a box, (Y, X)."""
        ids = np.zeros((box[2] - box[0], box[3] - box[1]), np.int64)
        for number in plan.tiles_reading(box):
            core = plan.tile(number).core
            labels, part = _labels(work, plan, number), shared_box(core, box)
            if labels is not None and part is not None:
                lut = np.concatenate([[0], self.new_id[self.offset[number] : self.offset[number + 1]]])
                ids[slices_of(part, box[:2])] = lut[labels[slices_of(part, core[:2])]]
        return ids


def join_slide(work: WorkFolder, plan: Plan, failed: Collection[int] = ()) -> int:
    """Join the cells of all tiles, with three tiles in memory at a time, and return how many cells there are."""
    rows, columns = plan.grid
    offset = np.zeros(plan.n_tiles + 1, np.int64)
    pairs: list[tuple[int, int]] = []
    masks: list[CellMask] = []
    boxes: list[NDArray[np.int64]] = []
    areas: list[float] = []
    for number in range(plan.n_tiles):
        arrays = None if number in failed else read_arrays(work.tile_path(plan, number), plan.tile_hash)
        if arrays is None and number not in failed:
            raise TileNotDone(f"Tile {number} is not done.")
        offset[number + 1] = offset[number] + (len(arrays["bbox"]) if arrays is not None else 0)
        if arrays is None:
            continue
        areas += arrays["numbers"][:, 6].tolist()
        masks += [replace(m, mask=_PIXEL) for m in unpack_masks(arrays)]
        boxes.append(_boxes_of_parts(arrays["labels"], plan.tile(number).core))
    empty = np.zeros((0, 0), np.int32)
    for number in range(plan.n_tiles):
        row, column = divmod(number, columns)
        own = _numbered(work, plan, number, offset)
        below = _numbered(work, plan, number + columns, offset) if row + 1 < rows else empty
        right = _numbered(work, plan, number + 1, offset) if column + 1 < columns else empty
        if own.size:
            pairs += parts_of_one_cell(own, below, right)
    new_id = number_cells(pairs, np.ones(int(offset[-1]), bool))
    n_cells = int(new_id.max(initial=0))
    bbox = np.tile(np.array([2**31, 2**31, 0, 0], np.int64), (n_cells, 1))
    parts = np.concatenate([np.empty((0, 4), np.int64), *boxes])
    np.minimum.at(bbox[:, :2], new_id - 1, parts[:, :2])
    np.maximum.at(bbox[:, 2:], new_id - 1, parts[:, 2:])
    largest = np.zeros(n_cells, np.intp)
    for part in np.argsort(np.array(areas), kind="stable").tolist():
        largest[new_id[part] - 1] = part
    packed = {f"mask_{k}": v for k, v in pack_masks([masks[i] for i in largest.tolist()]).items()}
    # These masks have no pixels; their boxes are restored when they are read.
    packed["mask_bbox"] = np.array([masks[i].bbox for i in largest.tolist()], np.int64).reshape(-1, 4)
    write_arrays(_path(work), {"offset": offset, "new_id": new_id, "bbox": bbox, **packed}, plan.tile_hash)
    return n_cells


def _path(work: WorkFolder) -> Path:
    return work.path / "joined.npz"


@lru_cache(maxsize=1)
def _read(path: Path, _stamp: int, made_with: str) -> Joined:
    arrays = read_arrays(path, made_with)
    if arrays is None:
        raise TileNotDone("The cells cut by tile borders are not joined yet.")
    bbox = arrays.pop("mask_bbox")
    pixels = np.array([(0, 0, 1, 1)] * len(bbox), np.int64).reshape(-1, 4)
    packed = {name.removeprefix("mask_"): v for name, v in arrays.items() if name.startswith("mask_")}
    masks = unpack_masks({**packed, "bbox": pixels})
    whole = [replace(m, bbox=(b[0], b[1], b[2], b[3])) for m, b in zip(masks, bbox.tolist(), strict=True)]
    return Joined(arrays["offset"], arrays["new_id"], arrays["bbox"], whole)


def _labels(work: WorkFolder, plan: Plan, number: int) -> NDArray[np.int32] | None:
    arrays = read_arrays(work.tile_path(plan, number), plan.tile_hash)
    return None if arrays is None else arrays["labels"].astype(np.int32)


def _numbered(work: WorkFolder, plan: Plan, number: int, offset: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return a tile's labels, numbered on from those of the tiles before; zeros if it failed."""
    labels = _labels(work, plan, number)
    if labels is None:
        y0, x0, y1, x1 = plan.tile(number).core
        return np.zeros((y1 - y0, x1 - x0), np.int32)
    return np.where(labels > 0, labels + np.int32(offset[number]), 0).astype(np.int32)


def _boxes_of_parts(labels: NDArray[np.integer], core: Box) -> NDArray[np.int64]:
    found = ndimage.find_objects(labels.astype(np.int32))
    boxes = [(b[0].start, b[1].start, b[0].stop, b[1].stop) for b in found]
    return np.asarray(np.array(boxes).reshape(-1, 4) + np.array([core[0], core[1], core[0], core[1]]), np.int64)
