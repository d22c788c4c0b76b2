"""Outlines of masks along the edges of their pixels, and masks of outlines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.geometry import CROSS, Box

Ring = list[int]
"""Corners x, y, x, y, … of a closed outline, the first one again at the end."""
Polygon = list[Ring]
"""The outline of one piece of a cell, and those of its holes."""
_TO_THE_RIGHT = {(1, 0): (0, 0), (-1, 0): (-1, -1), (0, 1): (0, -1), (0, -1): (-1, 0)}
"""Where the cell lies, (y, x) of its pixel from a corner, by the direction (x, y) in which the outline leaves it."""


def iter_polygons(
    cells: NDArray[np.integer[Any]], corner: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, list[Polygon]]]:
    """Yield id and pieces of each cell of a label image (Y, X), in order of the ids.

    `corner` is the (y, x) of its first pixel, at whose outer corner it lies. Outlines run clockwise as seen, holes
    the other way, so that the areas sum up to the cell's. No ring touches itself; pixels that touch only at a corner
    are pieces of their own.
    """
    labels, rings, is_touching = _trace(cells, corner)
    start = 0
    while start < len(labels):
        end, label = start + 1, labels[start]
        while end < len(labels) and labels[end] == label:
            end += 1
        parts = rings[start:end]
        if label in is_touching:
            parts = [part for ring in parts for part in _without_touching(ring)]
        areas = [signed_area(part) for part in parts] if len(parts) > 1 else [1.0]
        if sum(area > 0 for area in areas) == 1:
            yield label, [[parts[i] for i in sorted(range(len(parts)), key=lambda i: -areas[i])]]
        else:
            yield label, _pieces(parts, areas)
        start = end


def polygons_of(mask: NDArray[np.bool_]) -> list[Polygon]:
    """Return the pieces of one mask (Y, X), as `iter_polygons` does; none if it is empty."""
    return next((pieces for _, pieces in iter_polygons(mask.astype(np.uint8))), [])


def fill(rings: Sequence[Any], box: Box) -> NDArray[np.bool_]:
    """Return the mask (h, w), within a box, of rings of (x, y): pixels whose middle lies in an odd number of them.

    It is exactly the mask that `iter_polygons` outlines; a ring may also run across pixels, and need not be closed.
    """
    y0, x0, y1, x1 = box
    height, width = y1 - y0, x1 - x0
    turns = np.zeros((height, width + 1), np.int32)
    for ring in rings:
        corners = np.asarray(ring, np.float64).reshape(-1, 2)
        ends = np.roll(corners, -1, axis=0)
        (ax, ay), (bx, by) = corners.T, ends.T
        first = np.ceil(np.minimum(ay, by) - y0 - 0.5).clip(0, height).astype(np.int64)
        last = np.ceil(np.maximum(ay, by) - y0 - 0.5).clip(0, height).astype(np.int64)
        n = last - first
        edge = np.repeat(np.arange(len(corners)), n)
        rows = np.arange(len(edge)) - np.repeat(np.cumsum(n) - n, n) + first[edge]
        share = (rows + y0 + 0.5 - ay[edge]) / (by - ay)[edge]
        x = ax[edge] + share * (bx - ax)[edge]
        columns = np.ceil(x - x0 - 0.5).clip(0, width).astype(np.int64)
        np.add.at(turns, (rows, columns), 1)
    return np.asarray(np.cumsum(turns, axis=1)[:, :width] % 2 == 1, np.bool_)


def box_of_rings(rings: Sequence[Any], shape: tuple[int, ...]) -> Box:
    """Return the box around rings of (x, y), cut to an image of `shape` (Y, X); it may be empty."""
    corners = np.concatenate([np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings])
    x0, y0 = np.floor(corners.min(0)).clip(0, [shape[1], shape[0]]).astype(int).tolist()
    x1, y1 = np.ceil(corners.max(0)).clip(0, [shape[1], shape[0]]).astype(int).tolist()
    return y0, x0, y1, x1


def signed_area(ring: Sequence[float]) -> float:
    """Return the area inside a closed ring of x, y, x, y, …, pixels²: negative for holes."""
    x, y = ring[::2], ring[1::2]
    return sum(x[i] * y[i + 1] - x[i + 1] * y[i] for i in range(len(x) - 1)) / 2


def _trace(cells: NDArray[np.integer[Any]], corner: tuple[int, int]) -> tuple[list[int], list[Ring], set[int]]:
    """Return the label and the ring of each outline, sorted by label, and the labels that touch themselves at a corner.

    A ring is a chain of horizontal stretches. Above a cell they run to the right, below it to the left. The ends of a
    cell's stretches on one vertical line, from top to bottom, are joined two by two.
    """
    label, y, begin, end = _stretches(cells)
    if not len(label):
        return [], [], set()
    width, height = cells.shape[1] + 1, cells.shape[0] + 1
    upright = (label.astype(np.int64) * width)[None] + np.stack([begin, end])
    # Where two pixels of a cell touch at a corner, that below the upper pixel goes with what is above.
    keys = ((upright * height + y) * 2 + (end > begin)).reshape(-1)
    order = np.argsort(keys, kind="stable")
    in_order = keys[order] >> 1
    is_touching = set(label[order[1:][in_order[1:] == in_order[:-1]] % len(label)].tolist())
    pairs = order.reshape(-1, 2)
    starts_there = pairs < len(label)  # which of the two is the beginning of its stretch
    following = np.empty(len(label), np.int64)
    following[pairs[~starts_there] - len(label)] = pairs[starts_there]
    chain, starts = _cycles(following.tolist(), np.argsort(label, kind="stable").tolist())
    corners = np.stack(
        [begin[chain] + corner[1], y[chain] + corner[0], end[chain] + corner[1], y[chain] + corner[0]], 1
    )
    flat = corners.reshape(-1).tolist()
    ends = [*starts[1:], len(chain)]
    rings = [[*flat[4 * a : 4 * b], *flat[4 * a : 4 * a + 2]] for a, b in zip(starts, ends, strict=True)]
    return label[[chain[start] for start in starts]].tolist(), rings, is_touching


def _stretches(
    cells: NDArray[np.integer[Any]],
) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return label, y, and x of beginning and end of the horizontal stretches of all outlines."""
    width = cells.shape[1] + 1  # a column of background keeps the rows apart
    padded = np.pad(cells, ((1, 1), (0, 1))).reshape(-1)
    place = np.flatnonzero(padded[width:] != padded[:-width])
    found = []
    for labels, is_top in ((padded[place + width], True), (padded[place], False)):
        here, own = place[labels != 0], labels[labels != 0]
        is_new = np.ones(len(here), bool)
        is_new[1:] = (here[1:] != here[:-1] + 1) | (own[1:] != own[:-1])
        first = np.flatnonzero(is_new)
        last = np.append(first[1:], len(here)) - 1 if len(first) else first
        y, x0 = np.divmod(here[first], width)
        x1 = x0 + (here[last] - here[first]) + 1
        found.append((own[first], y, x0, x1) if is_top else (own[first], y, x1, x0))
    label, y, begin, end = (np.concatenate(pair) for pair in zip(*found, strict=True))
    return label, y, begin, end


def _cycles(following: list[int], order: list[int]) -> tuple[list[int], list[int]]:
    """Return the members of all cycles one after another, and where each begins; `order` says which first."""
    chain: list[int] = []
    starts: list[int] = []
    is_done = bytearray(len(following))
    add = chain.append
    for i in order:
        if not is_done[i]:
            starts.append(len(chain))
            while not is_done[i]:
                is_done[i] = 1
                add(i)
                i = following[i]
    return chain, starts


def _without_touching(ring: Ring) -> list[Ring]:
    """Cut a ring where it comes back to a corner: what is left touches nowhere itself."""
    parts: list[Ring] = []
    path: list[tuple[int, int]] = []
    at: dict[tuple[int, int], int] = {}
    for corner in zip(ring[::2], ring[1::2], strict=True):
        if corner in at:
            start = at[corner]
            parts.append([v for x, y in (*path[start:], corner) for v in (x, y)])
            for later in path[start + 1 :]:
                del at[later]
            del path[start + 1 :]
        else:
            at[corner] = len(path)
            path.append(corner)
    return parts


def _pieces(rings: list[Ring], areas: list[float]) -> list[Polygon]:
    """Return the pieces of a cell in several: each outline with the holes in it."""
    x0, x1 = min(min(ring[::2]) for ring in rings), max(max(ring[::2]) for ring in rings)
    y0, y1 = min(min(ring[1::2]) for ring in rings), max(max(ring[1::2]) for ring in rings)
    numbered, n = ndimage.label(fill(rings, (y0, x0, y1, x1)), CROSS)
    pieces: list[list[tuple[float, Ring]]] = [[] for _ in range(n)]
    for ring, area in zip(rings, areas, strict=True):
        ax, ay, bx, by = ring[:4]
        dy, dx = _TO_THE_RIGHT[int(np.sign(bx - ax)), int(np.sign(by - ay))]
        pieces[numbered[ay + dy - y0, ax + dx - x0] - 1].append((area, ring))
    return [[ring for _, ring in sorted(piece, key=lambda one: -one[0])] for piece in pieces]
