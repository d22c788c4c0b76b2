"""Joins cells cut by the borders of tiles that do not overlap (paper §3.6)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FOOTPRINT_IOU = 0.5
"""Two parts are one cell if the IoU of their extents on the border is at least this, …"""
FOOTPRINT_INSIDE = 0.75
"""… or if this share of the smaller extent meets the larger: the tip of a cell widens from row to row."""
LARGER_FOOTPRINT = 1.3
"""A part that ends at the border is there at most this much wider than the part with the cell's middle."""
WIDEST = 1.5
"""A cut leaves a part (nearly) widest at the border; a waist between two cells leaves two parts that are not."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A tile on the plane: half-open box, labels numbered before it, and its own number of labels."""

    y0: int
    x0: int
    y1: int
    x1: int
    offset: int
    n: int


def join_tiles(
    tiles: Iterable[tuple[int, int, NDArray[np.integer]]], shape: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Place tiles on a plane and join the parts of cells on both sides of a border.

    Two parts are one cell if each is the other's best match on the border, their extents there agree (or the smaller
    lies in the larger, as at the tip of a cell), and one of them is widest at the border: cutting a convex cell leaves
    such a part, while two cells that merely touch are both wider away from the border. A cell on four tiles is joined
    pair by pair.

    Parameters
    ----------
    tiles : iterable of (y0, x0, labels)
        Position on the plane and (Y, X) label image: 0 background, ids 1..n of its own. Tiles must not overlap.
    shape : tuple of int
        (Y, X) of the plane, pixels.

    Returns
    -------
    cells : ndarray of int32, shape (Y, X)
        Label image with ids 1..N, in the order of the cells' first parts.
    new_id : ndarray of int64, shape (total number of ids in all tiles,)
        Id in `cells` of every part, tile after tile; 0 for an id without pixels.
    """
    cells = np.zeros(shape, np.int32)
    placed = list(_place(tiles, cells))
    n_parts = placed[-1].offset + placed[-1].n if placed else 0
    pairs = [pair for tile in placed for pair in _pairs_at_borders(cells, tile)]
    present = np.zeros(n_parts + 1, bool)
    for tile in placed:
        present[np.unique(cells[tile.y0 : tile.y1, tile.x0 : tile.x1])] = True
    new_id = number_cells(pairs, present[1:])
    lut = np.concatenate([[0], new_id]).astype(np.int32)
    for tile in placed:
        box = cells[tile.y0 : tile.y1, tile.x0 : tile.x1]
        box[...] = lut[box]
    return cells, new_id


def number_cells(pairs: Sequence[tuple[int, int]], present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the id 1..N of each part's cell, in the order of first parts; 0 where `present` (P,) bool is False.

    `pairs` are parts of one cell, numbered from 1.
    """
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T - 1
    graph = coo_array((np.ones(first.size, bool), (first, second)), shape=(present.size, present.size))
    component = connected_components(graph, directed=False)[1] if present.size else np.empty(0, np.int64)
    new_id = np.zeros(present.size, np.int64)
    new_id[present] = np.unique(component[present], return_inverse=True)[1] + 1
    return new_id


def _place(tiles: Iterable[tuple[int, int, NDArray[np.integer]]], cells: NDArray[np.int32]) -> Iterator[_Placed]:
    """Write each tile into the plane, its labels numbered on from those before."""
    offset = 0
    for y0, x0, labels in tiles:
        y1, x1 = y0 + labels.shape[0], x0 + labels.shape[1]
        if y0 < 0 or x0 < 0 or y1 > cells.shape[0] or x1 > cells.shape[1]:
            raise ValueError(f"A tile at y {y0} to {y1}, x {x0} to {x1} does not lie in a plane of {cells.shape}.")
        n = int(labels.max(initial=0))
        cells[y0:y1, x0:x1] = np.where(labels > 0, labels + offset, 0)
        yield _Placed(y0, x0, y1, x1, offset, n)
        offset += n


def _pairs_at_borders(cells: NDArray[np.int32], tile: _Placed) -> Iterator[tuple[int, int]]:
    """Yield the pairs of parts that are one cell at a tile's lower and right border."""
    height, width = tile.y1 - tile.y0, tile.x1 - tile.x0
    own = cells[tile.y0 : tile.y1, tile.x0 : tile.x1]
    below = cells[tile.y1 : tile.y1 + height, tile.x0 : tile.x1]
    right = cells[tile.y0 : tile.y1, tile.x1 : tile.x1 + width]
    yield from parts_of_one_cell(own, below, right)


def parts_of_one_cell(
    own: NDArray[np.int32], below: NDArray[np.int32], right: NDArray[np.int32]
) -> Iterator[tuple[int, int]]:
    """Yield pairs of parts that are one cell, from a tile and its neighbours below and to the right (Y, X).

    A missing neighbour is an array without pixels.
    """
    if below.size:
        yield from _matches(own[::-1], below)
    if right.size:
        yield from _matches(own.T[::-1], right.T)


def _matches(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> Iterator[tuple[int, int]]:
    """Yield pairs that are one cell; row 0 of both images is the border, the others lead away from it."""
    a, b = _border_line(ours), _border_line(theirs)
    touch = (a > 0) & (b > 0)
    if not touch.any():
        return
    pairs, contact = np.unique(np.stack([a[touch], b[touch]]), axis=1, return_counts=True)
    size_a, size_b = _counts_of(a, pairs[0]), _counts_of(b, pairs[1])
    iou = contact / (size_a + size_b - contact)
    good = (iou >= FOOTPRINT_IOU) | (contact >= FOOTPRINT_INSIDE * np.minimum(size_a, size_b))
    good &= _is_best(pairs[0], iou) & _is_best(pairs[1], iou)
    if not good.any():
        return
    widest_a, widest_b = _widest(ours, pairs[0][good]), _widest(theirs, pairs[1][good])
    for i, wide_a, wide_b in zip(np.flatnonzero(good), widest_a, widest_b, strict=True):
        ends_a = size_a[i] <= LARGER_FOOTPRINT * size_b[i] and wide_a <= WIDEST * size_a[i]
        ends_b = size_b[i] <= LARGER_FOOTPRINT * size_a[i] and wide_b <= WIDEST * size_b[i]
        if ends_a or ends_b:
            yield int(pairs[0, i]), int(pairs[1, i])


def _border_line(part: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the labels along the border; a mask that stops one pixel short of it counts too."""
    line = part[0] if len(part) == 1 else np.where(part[0] > 0, part[0], part[1])
    return np.asarray(line, np.int32)


def _counts_of(line: NDArray[np.int32], labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the number of pixels of the line with each label."""
    found, counts = np.unique(line, return_counts=True)
    return np.asarray(counts[np.searchsorted(found, labels)], np.int64)


def _is_best(labels: NDArray[np.int32], score: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pairs score highest among those with the same label; the first of ties."""
    order = np.lexsort((-score, labels))
    best = np.zeros(labels.size, bool)
    best[order[np.unique(labels[order], return_index=True)[1]]] = True
    return best


def _widest(part: NDArray[np.int32], labels: NDArray[np.int32]) -> list[int]:
    """Return the most pixels of each label in any line parallel to the border."""
    before = int(part[part > 0].min()) - 1
    boxes = ndimage.find_objects(np.maximum(part - before, 0))
    return [int(np.count_nonzero(part[boxes[i - before - 1]] == i, axis=1).max()) for i in labels.tolist()]
