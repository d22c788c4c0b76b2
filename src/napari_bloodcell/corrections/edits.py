"""Correcting cells by hand: each edit of a label image and its table is a small patch that can be undone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from napari_bloodcell.core.cells import box_of
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.patches import Edit, make_edit, plane_shape, read_window, union_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from napari_bloodcell.core.protocols import CellMask

    Box = tuple[int, int, int, int]
    Point = tuple[float, float]

REPLACED_FROM = 0.6
"""A new cell that covers more than this share of an old one takes its place."""
FREE_FROM = 0.25
"""A new cell needs at least this share of its pixels free, or else the cell is there already."""
WAIST_PX = 0.75
"""Two parts of a region are cells of their own where the waist between them is this much narrower, pixels of radius."""


def add_cell(
    cells: Any,
    table: pd.DataFrame,
    mask: CellMask,
    *,
    plane: tuple[int, ...] = (),
    values: Mapping[str, object] | None = None,
) -> Edit:
    """Return the edit that adds a cell; it takes only pixels that no other cell has.

    Parameters
    ----------
    cells : array of int, shape (…, Y, X)
        Label image (numpy or zarr), 0 background. Not changed.
    table : DataFrame
        Its cell table, index = id. Not changed.
    mask : CellMask
        The new cell, its box in pixels of the plane; what lies outside is cut off. Its id becomes the largest plus 1.
    plane : tuple of int
        Position in the axes before the last two.
    values : mapping of str to object, optional
        More of the new row, such as `cell_type`. Columns that the table does not have are left out.

    Raises
    ------
    InputError
        If the mask is empty, lies outside, or is a cell already.

    Notes
    -----
    A cell of which the mask covers more than `REPLACED_FROM` is replaced. Of what the neighbours leave of the mask,
    the largest connected part is the cell.
    """
    shape = plane_shape(cells)
    y0, x0, y1, x1 = mask.bbox
    box = (max(y0, 0), max(x0, 0), min(y1, shape[0]), min(x1, shape[1]))
    inside = mask.mask[box[0] - y0 : max(box[2] - y0, 0), box[1] - x0 : max(box[3] - x0, 0)]
    if not inside.any():
        raise InputError("No cell was found there. Click on a cell, or draw a box around it.")
    under = read_window(cells, plane, box)
    covered = np.bincount(under[inside])
    touched = [int(i) for i in np.flatnonzero(covered) if i]
    boxes = {i: find_cell(cells, table, i, plane) for i in touched}
    areas = {i: int((read_window(cells, plane, boxes[i]) == i).sum()) for i in touched}
    replaced = [i for i in touched if covered[i] > REPLACED_FROM * areas[i]]
    free = np.count_nonzero(inside & ((under == 0) | np.isin(under, replaced)))
    if free < max(FREE_FROM * np.count_nonzero(inside), 1):
        there = ", ".join(str(i) for i in touched)
        raise InputError(
            f"Cell {there} is there already. Delete or split it first, or draw a box around what is missing."
        )
    box = union_of([box, *(boxes[i] for i in replaced)])
    before = read_window(cells, plane, box)
    after = np.where(np.isin(before, replaced), 0, before)
    whole = np.zeros(before.shape, bool)
    top, left = max(y0, 0) - box[0], max(x0, 0) - box[1]
    whole[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    new_id = int(max(table.index.max() if len(table) else 0, before.max(initial=0))) + 1
    after[_largest_part(whole & (after == 0))] = new_id
    row = {"predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score, "type_source": "model"}
    row |= {"cell_type": mask.cell_type or ""} | dict(values or {})
    instead = f" in place of {', '.join(map(str, replaced))}" if replaced else ""
    return make_edit(f"add cell {new_id}{instead}", cells, table, plane, box, before, after, values={new_id: row})


def delete_cells(cells: Any, table: pd.DataFrame, ids: Sequence[int], *, plane: tuple[int, ...] = ()) -> Edit:
    """Return the edit that deletes cells; arguments as in `add_cell`.

    Raises
    ------
    InputError
        If one of the ids is not in this plane, or none is given.
    """
    box, before = _cells_at(cells, table, ids, plane)
    after = np.where(np.isin(before, ids), 0, before)
    return make_edit(f"delete {_named(ids)}", cells, table, plane, box, before, after)


def merge_cells(cells: Any, table: pd.DataFrame, ids: Sequence[int], *, plane: tuple[int, ...] = ()) -> Edit:
    """Return the edit that makes several cells one, with id and type of the largest; arguments as in `add_cell`.

    Raises
    ------
    InputError
        If fewer than two ids are given, or one is not in this plane.
    """
    ids = list(dict.fromkeys(int(i) for i in ids))
    if len(ids) < 2:
        raise InputError(f"{len(ids)} cell(s) are selected; select two or more to merge them (Shift-click).")
    box, before = _cells_at(cells, table, ids, plane)
    areas = [int(np.count_nonzero(before == i)) for i in ids]
    after = np.where(np.isin(before, ids), ids[int(np.argmax(areas))], before)
    return make_edit(f"merge {_named(ids)}", cells, table, plane, box, before, after)


def split_cell(
    cells: Any,
    table: pd.DataFrame,
    cell: int,
    *,
    line: tuple[Point, Point] | None = None,
    plane: tuple[int, ...] = (),
) -> Edit:
    """Return the edit that parts a cell in two, or in more at its waists; arguments as in `add_cell`.

    Parameters
    ----------
    cells, table, plane
        As in `add_cell`.
    cell : int
        Its id. The largest part keeps it, the others get the largest id plus 1, 2, …; all keep the type.
    line : pair of (y, x), optional
        The cell is cut along the straight line through these two points, pixels of the plane. None: where it is
        narrow, by the watershed of its distance transform.

    Raises
    ------
    InputError
        If there is no such cell, it has no waist, or the line does not cross it.
    """
    box, before = _cells_at(cells, table, [cell], plane)
    own = before == cell
    if line is None:
        parts = _parts_at_waists(own)
        if parts.max() < 2:
            raise InputError(f"Cell {cell} is nowhere narrow. Cut it by a line instead: two clicks.")
    else:
        (ay, ax), (by, bx) = line
        yy, xx = np.mgrid[box[0] : box[2], box[1] : box[3]]
        beyond = (xx - ax) * (by - ay) - (yy - ay) * (bx - ax) > 0
        parts = np.where(own, 1 + beyond, 0)
        if (ay, ax) == (by, bx) or not (own & beyond).any() or not (own & ~beyond).any():
            raise InputError(f"The line does not cross cell {cell}. Click on both sides of it, outside of the cell.")
    order = np.argsort(-np.bincount(parts.ravel())[1:], kind="stable") + 1
    first_new = int(max(table.index.max() if len(table) else 0, before.max())) + 1
    new_ids = [cell, *range(first_new, first_new + len(order) - 1)]
    after = before.copy()
    for part, new_id in zip(order, new_ids, strict=True):
        after[parts == part] = new_id
    return make_edit(
        f"split cell {cell}", cells, table, plane, box, before, after, parents=dict.fromkeys(new_ids, cell)
    )


def repaint(
    cells: Any,
    table: pd.DataFrame,
    old: NDArray[np.integer[Any]],
    corner: tuple[int, int],
    *,
    plane: tuple[int, ...] = (),
) -> Edit:
    """Return the edit that painting was: `cells` hold it already, `old` (h, w) is what was at `corner` before.

    Its `added` and `removed` rows still have to be put into the table, by `replace_rows`.
    """
    painted = (corner[0], corner[1], corner[0] + old.shape[0], corner[1] + old.shape[1])
    now = read_window(cells, plane, painted)
    changed = [int(i) for i in np.union1d(old[old != now], now[old != now]) if i]
    boxes = [box_of(table, i) if i in table.index else None for i in changed]
    box = union_of([painted, *(b for b in boxes if b is not None)])
    after = read_window(cells, plane, box)
    before = after.copy()
    top, left = corner[0] - box[0], corner[1] - box[1]
    before[top : top + old.shape[0], left : left + old.shape[1]] = old
    return make_edit("paint", cells, table, plane, box, before, after)


def find_cell(cells: Any, table: pd.DataFrame, cell: int, plane: tuple[int, ...] = ()) -> Box:
    """Return the box (y0, x0, y1, x1) of a cell: the table's where that is right, else found by looking everywhere.

    Raises
    ------
    InputError
        If the cell is not in this plane.
    """
    box = box_of(table, cell) if cell in table.index else None
    if box is not None and int((read_window(cells, plane, box) == cell).sum()) == int(table["area_px"].loc[cell]):
        return box
    found = ndimage.find_objects((read_window(cells, plane, (0, 0, *plane_shape(cells))) == cell).astype(np.uint8))
    if not found:
        raise InputError(f"There is no cell {cell} in this plane.")
    rows, columns = found[0]
    return rows.start, columns.start, rows.stop, columns.stop


def _cells_at(
    cells: Any, table: pd.DataFrame, ids: Sequence[int], plane: tuple[int, ...]
) -> tuple[Box, NDArray[np.int32]]:
    """Return the box around these cells and the labels in it."""
    if not ids or 0 in ids:
        raise InputError("No cell was given: point at a cell, not at the background.")
    box = union_of([find_cell(cells, table, int(i), plane) for i in ids])
    return box, read_window(cells, plane, box)


def _parts_at_waists(own: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return parts 1..K of a mask (h, w): watershed of the distance transform, from its maxima that stand out."""
    from skimage import morphology, segmentation

    h_maxima: Any = morphology.h_maxima
    watershed: Any = segmentation.watershed
    distance = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    markers, _ = ndimage.label(h_maxima(distance, WAIST_PX), np.ones((3, 3)))
    return np.asarray(watershed(-distance, markers, mask=own), np.int32)


def _largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, n_parts = ndimage.label(mask, np.ones((3, 3)))
    if n_parts < 2:
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax(), bool)


def _named(ids: Sequence[int]) -> str:
    return f"cell{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}"
