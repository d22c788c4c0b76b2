"""Loads the masks around a block and resolves overlaps between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from napari_bloodcell.core.errors import BloodCellError
from napari_bloodcell.core.geometry import Box, grown, union_of
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.results.plan import Plan
from napari_bloodcell.slides.work import WorkFolder, read_arrays, unpack_masks
from napari_bloodcell.stages.masks import intersection_area, overlapping_pairs
from napari_bloodcell.stages.segment import filter_overlapping

MOST_MASKS_KEPT = 20_000
"""Masks of recently read tiles kept in memory (about 2 kB each)."""


class TileNotDone(BloodCellError):
    """The masks of a tile that is needed are not on disk yet."""


@dataclass(frozen=True, slots=True, eq=False)
class KeyedMask:
    """A mask with its key: keys rise with tiles and, in a tile, with the order of masks."""

    key: int
    mask: CellMask


class NearbyMasks:
    """Reads the masks of a slide by place; tiles in `failed` have none."""

    def __init__(self, work: WorkFolder, plan: Plan, failed: Collection[int] = ()) -> None:
        self._work, self._plan, self.failed = work, plan, frozenset(failed)
        self._tiles: OrderedDict[int, tuple[NDArray[np.int64], list[CellMask]]] = OrderedDict()
        self._n_masks = 0

    def within(self, box: Box) -> list[KeyedMask]:
        """Return the masks whose box shares pixels with `box` (y0, x0, y1, x1), by rising key.

        Raises `TileNotDone` if a tile that may have such masks is not done.
        """
        y0, x0, y1, x1 = box
        found = []
        for number in self._plan.tiles_reading(box):
            boxes, masks = self._tile(number)
            if not len(masks):
                continue
            hit = (boxes[:, 0] < y1) & (boxes[:, 2] > y0) & (boxes[:, 1] < x1) & (boxes[:, 3] > x0)
            first = number * self._plan.keys_per_tile + 1
            found += [KeyedMask(first + i, masks[i]) for i in np.flatnonzero(hit).tolist()]
        return found

    def _tile(self, number: int) -> tuple[NDArray[np.int64], list[CellMask]]:
        if number in self.failed:
            return np.empty((0, 4), np.int64), []
        if number not in self._tiles:
            arrays = read_arrays(self._work.tile_path(self._plan, number), self._plan.tile_hash)
            if arrays is None:
                raise TileNotDone(f"Tile {number} is not done.")
            self._tiles[number] = arrays["bbox"], unpack_masks(arrays)
            self._n_masks += len(arrays["bbox"])
            while self._n_masks > MOST_MASKS_KEPT and len(self._tiles) > 1:
                self._n_masks -= len(self._tiles.popitem(last=False)[1][1])
        self._tiles.move_to_end(number)
        return self._tiles[number]


def masks_to_paint(nearby: NearbyMasks, box: Box, plan: Plan) -> tuple[list[KeyedMask], Box]:
    """Return the masks that decide which pixels of a box belong to which cell, and the region to paint.

    The result is that of filtering all masks of the slide together. Whether a mask stays depends on those with which it
    shares more than `overlap_max` of its area, on the rivals of those, and so on, so the neighbourhood is widened until
    all of them are included. Painted together, every cell that reaches into the box gets its pixels of the whole slide.
    """
    reaching = nearby.within(box)
    if not reaching:
        return [], box
    region = _around(reaching, box, plan.shape)
    rivals = nearby.within(region)
    wanted = {m.key for m in rivals}
    params = plan.recipe.segment
    known = rivals
    while True:
        wider = nearby.within(_around(known, region, plan.shape))
        inner = {m.key for m in known}
        if len(wider) == len(known) or not _depend_on_others(wider, wanted, inner, params.overlap_max):
            break
        known = wider
    kept = filter_overlapping([m.mask for m in wider], plan.shape, plan.calibration, params)
    key_of = {id(m.mask): m.key for m in wider}
    return [KeyedMask(key_of[id(m)], m) for m in kept if key_of[id(m)] in wanted], region


def _around(masks: Sequence[KeyedMask], box: Box, shape: tuple[int, int]) -> Box:
    """Return the smallest box around `box` and all masks."""
    return grown(union_of([box, *(m.mask.bbox for m in masks)]), 0, shape)


def _depend_on_others(
    masks: Sequence[KeyedMask], wanted: Collection[int], inner: Collection[int], overlap_max: float
) -> bool:
    """Return whether the fate of the wanted masks depends on masks whose own rivals are not all known."""
    boxes = np.array([m.mask.bbox for m in masks])
    first, second = overlapping_pairs(boxes)
    area = np.array([m.mask.area for m in masks], float)
    enough = overlap_max * np.minimum(area[first], area[second])
    low, high = np.maximum(boxes[first, :2], boxes[second, :2]), np.minimum(boxes[first, 2:], boxes[second, 2:])
    near = (high - low).prod(1) > enough  # a box holds at least its mask
    first, second, enough = first[near], second[near], enough[near]
    shared = [intersection_area(masks[i].mask, masks[j].mask) for i, j in zip(first, second, strict=True)]
    tied = np.array(shared, float) > enough
    graph = coo_array((np.ones(int(tied.sum()), bool), (first[tied], second[tied])), shape=(len(masks), len(masks)))
    component = connected_components(graph, directed=False)[1]
    keys = [m.key for m in masks]
    touched = set(component[[k in wanted for k in keys]].tolist())
    outside = component[[k not in inner for k in keys]].tolist()
    return not touched.isdisjoint(outside)
