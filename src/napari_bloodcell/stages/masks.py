"""Filters masks until every pixel belongs to at most one cell (paper §3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import CROSS, Box, Slices, box_of_mask, largest_part, shared_box, slices_of
from napari_bloodcell.core.protocols import CellMask

BACKGROUND_AREAS = 14.0
"""A mask larger than this many red cells is background or a clump."""
DEBRIS_AREAS = 0.02
"""A mask smaller than this many red cells is noise."""


def overlapping_pairs(boxes: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs i < j of half-open boxes (N, 4) as (y0, x0, y1, x1) that share pixels."""
    order = np.argsort(boxes[:, 0], kind="stable")
    y0, x0, y1, x1 = boxes[order].T
    last = np.searchsorted(y0, y1, side="left")
    left: list[NDArray[np.intp]] = []
    right: list[NDArray[np.intp]] = []
    for i in range(len(order)):
        near = slice(i + 1, last[i])
        hit = np.flatnonzero((x0[near] < x1[i]) & (x1[near] > x0[i])) + i + 1
        left.append(np.full(hit.size, order[i]))
        right.append(order[hit])
    if not left:
        empty = np.zeros(0, np.intp)
        return empty, empty
    a, b = np.concatenate(left).astype(np.intp), np.concatenate(right).astype(np.intp)
    return np.minimum(a, b), np.maximum(a, b)


def intersection_area(a: CellMask, b: CellMask) -> int:
    """Return how many pixels two masks share."""
    box = shared_box(a.bbox, b.bbox)
    if box is None:
        return 0
    return int(np.count_nonzero(a.mask[slices_of(box, a.bbox[:2])] & b.mask[slices_of(box, b.bbox[:2])]))


def moved(mask: CellMask, dy: int, dx: int) -> CellMask:
    """Return a mask that lies (dy, dx) pixels further down and to the right."""
    y0, x0, y1, x1 = mask.bbox
    return replace(mask, bbox=(y0 + dy, x0 + dx, y1 + dy, x1 + dx), point=(mask.point[0] + dy, mask.point[1] + dx))


def fill_holes(mask: CellMask) -> CellMask:
    """Return the mask with its holes filled: the pallor of a red cell belongs to it."""
    height, width = mask.mask.shape
    empty = np.ones((height + 2, width + 2), bool)
    np.logical_not(mask.mask, out=empty[1:-1, 1:-1])
    outside, n_parts = ndimage.label(empty, CROSS)
    return mask if n_parts == 1 else replace(mask, mask=outside[1:-1, 1:-1] != outside[0, 0])


def in_one_piece(mask: CellMask) -> CellMask:
    """Return the largest connected part of the mask: a cell is one piece."""
    own = largest_part(mask.mask)
    box = None if own is mask.mask else box_of_mask(own, mask.bbox[:2])
    return mask if box is None else replace(mask, bbox=box, mask=own[slices_of(box, mask.bbox[:2])])


def clean_masks(masks: Sequence[CellMask], *, rbc_diameter_px: float) -> list[CellMask]:
    """Return each mask in one piece without holes, and drop those that are background or noise."""
    typical = np.pi / 4 * rbc_diameter_px**2
    filled = [fill_holes(in_one_piece(m)) for m in masks if m.area]
    return [m for m in filled if DEBRIS_AREAS * typical <= m.area <= BACKGROUND_AREAS * typical]


def filter_masks(masks: Sequence[CellMask], *, rbc_diameter_px: float, overlap_max: float = 0.6) -> list[CellMask]:
    """Apply `clean_masks`, then `drop_repeated`."""
    kept = clean_masks(masks, rbc_diameter_px=rbc_diameter_px)
    return drop_repeated(kept, rbc_diameter_px=rbc_diameter_px, overlap_max=overlap_max)


def drop_repeated(masks: Sequence[CellMask], *, rbc_diameter_px: float, overlap_max: float = 0.6) -> list[CellMask]:
    """Drop clumps, repeated and nested masks; those that are left may still share a rim of pixels.

    `rbc_diameter_px` is the width of a typical red cell, pixels. If more than `overlap_max` of a mask lies in another,
    one of the two goes: the inner one if the outer one is a cell (a nucleus in its cell, a pallor in its rim), the
    worse one if both are about equally large. A mask tiled by two or more others is a clump and goes. Paper §3.3
    filters by area; here a clump is recognised by the cells inside it.
    """
    typical = np.pi / 4 * rbc_diameter_px**2
    kept = list(masks)
    if not kept:
        return []
    area = np.array([m.area for m in kept], float)
    first, second = overlapping_pairs(np.array([m.bbox for m in kept]))
    shared = np.array([intersection_area(kept[i], kept[j]) for i, j in zip(first, second, strict=True)], float)
    touching = shared > 0
    first, second, shared = first[touching], second[touching], shared[touching]
    iou = shared / (area[first] + area[second] - shared)
    score = np.array([m.score for m in kept])
    alive = np.ones(len(kept), bool)

    same = np.flatnonzero(iou > overlap_max)
    best_first = np.argsort(-np.maximum(score[first[same]], score[second[same]]), kind="stable")
    for pair in same[best_first]:
        i, j = first[pair], second[pair]
        if alive[i] and alive[j]:
            alive[i if (score[i], -i) < (score[j], -j) else j] = False

    outer = np.where(area[first] >= area[second], first, second)
    inner = np.where(area[first] >= area[second], second, first)
    inside = shared / area[inner] > overlap_max
    _drop_clumps(alive, outer, inner, inside, area, shared, typical)
    for pair in np.flatnonzero(inside)[np.argsort(-area[outer[inside]], kind="stable")]:
        o, i = outer[pair], inner[pair]
        if alive[o] and alive[i] and not _is_platelet_on_cell(kept[i], kept[o]):
            alive[i] = False
    return [m for m, a in zip(kept, alive, strict=True) if a]


def drop_slivers(
    masks: Sequence[CellMask], shape: tuple[int, int], *, rbc_diameter_px: float, visible_min: float
) -> list[CellMask]:
    """Drop masks cut by the edge of a plane of `shape` (Y, X) that show too little.

    A mask goes if it touches the edge and reaches less than `visible_min` red cells' widths into the plane. Annotators
    of four laboratories leave such slivers out, and counting them would give too many cells for the area seen.
    """
    least = visible_min * rbc_diameter_px
    kept = []
    for m in masks:
        y0, x0, y1, x1 = m.bbox
        cut_y, cut_x = y0 <= 0 or y1 >= shape[0], x0 <= 0 or x1 >= shape[1]
        if not ((cut_y and y1 - y0 < least) or (cut_x and x1 - x0 < least)):
            kept.append(m)
    return kept


def _is_platelet_on_cell(inner: CellMask, outer: CellMask) -> bool:
    return inner.cell_type == "platelet" and outer.cell_type == "RBC"


def _drop_clumps(
    alive: NDArray[np.bool_],
    outer: NDArray[np.intp],
    inner: NDArray[np.intp],
    inside: NDArray[np.bool_],
    area: NDArray[np.float64],
    shared: NDArray[np.float64],
    typical: float,
) -> None:
    """Drop masks covered to 60 % by two or more cell-sized masks; the lobes of a nucleus cover less of their cell."""
    for o in np.unique(outer[inside]):
        if not alive[o] or area[o] < 1.2 * typical:
            continue
        parts = np.flatnonzero(
            inside & (outer == o) & alive[inner] & (area[inner] > 0.35 * typical) & (area[inner] < 0.8 * area[o])
        )
        if parts.size >= 2 and shared[parts].sum() > 0.6 * area[o]:
            alive[o] = False


def paint(masks: Sequence[CellMask], shape: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Paint masks into a (Y, X) int32 label image; a shared pixel goes to the cell whose centre is nearer for its size.

    Returns the image and, for each id, the position of its mask (N,). Ids are 1..N in reading order of the prompts; a
    mask that wins no pixel gets none. Of a mask that shares pixels only the largest connected part of what it wins is
    painted.
    """
    order = np.array(sorted(range(len(masks)), key=lambda i: (masks[i].point, masks[i].bbox)), np.intp)
    windows = [_within(masks[i].bbox, shape) for i in order]
    seen, shared = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, (here, part) in zip(order, windows, strict=True):
        shared[here] |= seen[here] & masks[i].mask[part]
        seen[here] |= masks[i].mask[part]
    disputed = {
        label
        for label, (i, (here, part)) in enumerate(zip(order, windows, strict=True), start=1)
        if (shared[here] & masks[i].mask[part]).any()
    }
    cells, present = np.zeros(shape, np.int32), np.zeros(len(masks), bool)
    depth = np.empty(shape, np.float32)  # written only where disputed
    for label in disputed:
        depth[windows[label - 1][0]] = np.inf
    for label, (i, (here, part)) in enumerate(zip(order, windows, strict=True), start=1):
        wins = masks[i].mask[part]
        if label in disputed:
            near = _depth(masks[i].mask)[part]
            wins = wins & (near < depth[here])
            depth[here][wins] = near[wins]
        cells[here][wins] = label
        present[label - 1] = wins.any()
    for label in disputed:
        here = windows[label - 1][0]
        won = cells[here] == label
        present[label - 1] = won.any()
        cells[here][won & ~largest_part(won)] = 0
    if present.all():
        return cells, order
    renumber = np.concatenate([[0], np.cumsum(present) * present]).astype(np.int32)
    return renumber[cells], order[present]


def paint_box(masks: Sequence[CellMask], box: Box) -> tuple[NDArray[np.int32], list[CellMask]]:
    """Return the label image of a box of the smear, (Y, X) int32 as by `paint`, and the mask behind each id."""
    y0, x0, y1, x1 = box
    labels, order = paint([moved(m, -y0, -x0) for m in masks], (y1 - y0, x1 - x0))
    return labels, [masks[i] for i in order]


def _within(box: Box, shape: tuple[int, int]) -> tuple[Slices, Slices]:
    """Return where a box lies in a plane of `shape`, and which part of the box lies there."""
    inside = shared_box(box, (0, 0, *shape)) or (*box[:2], *box[:2])
    return slices_of(inside), slices_of(inside, box[:2])


def _depth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the squared distance to the centroid in units of the equivalent radius."""
    y, x = np.arange(mask.shape[0]), np.arange(mask.shape[1])
    in_row, in_column = np.add.reduce(mask, 1, np.intp), np.add.reduce(mask, 0, np.intp)
    area = in_row.sum()
    if not area:
        return np.full(mask.shape, np.inf, np.float32)
    rows, columns = (y - (in_row @ y) / area) ** 2, (x - (in_column @ x) / area) ** 2
    return np.asarray((rows[:, None] + columns[None, :]) / area, np.float32)
