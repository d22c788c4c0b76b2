"""Edits of a label image and its table that can be taken back.

An `Edit` holds small windows of the label image before and after, and the rows of the changed cells.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from napari_bloodcell.core.cells import BOX, CENTROID, box_of, measure, table_of_measured
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, largest_part, shared_box, slices_of, union_of
from napari_bloodcell.core.protocols import CellMask

Point = tuple[float, float]

REPLACED_FROM = 0.6
"""A new cell that covers more than this share of an old one replaces it."""
FREE_FROM = 0.25
"""A new cell needs at least this share of its pixels free; otherwise the cell is there already."""
WAIST_PX = 0.75
"""Parts of a region are separate cells if the waist between them is this much narrower, pixels of radius."""
MERGED_WITHIN_PX = 4096
"""Cells farther apart than this are not merged."""
NO_CELL = "No cell was given: point at a cell, not at the background."


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A window of one plane before and after a change; only pixels that differ are written.

    `plane` is the position in the axes before the last two, () for a single image; `corner` (y, x), pixels; `before`
    and `after` are labels (h, w).
    """

    plane: tuple[int, ...]
    corner: tuple[int, int]
    before: NDArray[np.int32]
    after: NDArray[np.int32]

    @property
    def box(self) -> Box:
        """(y0, x0, y1, x1) in pixels of the plane."""
        (y, x), (height, width) = self.corner, self.before.shape
        return y, x, y + height, x + width

    def reversed(self) -> Patch:
        """Return the patch that takes this one back."""
        return Patch(self.plane, self.corner, self.after, self.before)

    def fits(self, cells: Any) -> bool:
        """Return whether the label image is as it was before."""
        changed = self.before != self.after
        return np.array_equal(read_window(cells, self.plane, self.box)[changed], self.before[changed])

    def write(self, cells: Any) -> None:
        """Write the pixels that differ into a label image (…, Y, X)."""
        now = read_window(cells, self.plane, self.box)
        cells[window_of(self.plane, self.box)] = np.where(self.before != self.after, self.after, now).astype(
            cells.dtype
        )

    def write_level(self, level: Any, cells: Any) -> None:
        """Update a coarser level, whose pixels are every n-th of `cells`, the finest."""
        step = round(cells.shape[-1] / level.shape[-1])
        y0, x0, y1, x1 = self.box
        top, left = -(-y0 // step), -(-x0 // step)
        bottom, right = min(-(-y1 // step), level.shape[-2]), min(-(-x1 // step), level.shape[-1])
        if bottom > top and right > left:
            box = (top * step, left * step, (bottom - 1) * step + 1, (right - 1) * step + 1)
            picked = read_window(cells, self.plane, box)[::step, ::step]
            level[window_of(self.plane, (top, left, bottom, right))] = picked.astype(level.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A change of a label image (…, Y, X) and its table, with everything needed to take it back.

    `what` describes it for people, as "split cell 5". No two patches change the same pixel. `removed` and `added` are
    the rows of the changed cells before and after.
    """

    what: str
    patches: tuple[Patch, ...]
    removed: pd.DataFrame
    added: pd.DataFrame

    @property
    def n_bytes(self) -> int:
        """Memory of the pixels."""
        return sum(patch.before.nbytes + patch.after.nbytes for patch in self.patches)

    def reversed(self) -> Edit:
        """Return the edit that takes this one back."""
        return Edit(self.what, tuple(patch.reversed() for patch in self.patches), self.added, self.removed)

    def apply(self, cells: Any, table: pd.DataFrame) -> pd.DataFrame:
        """Write the pixels into `cells` and return the table with the new rows.

        Raises `InputError`, and writes nothing, if the pixels were changed by something else since.
        """
        if not all(patch.fits(cells) for patch in self.patches):
            raise InputError(f"The cells changed in another way since: {self.what!r} cannot be undone or done again.")
        for patch in self.patches:
            patch.write(cells)
        return replace_rows(table, self.removed, self.added)


def add_cell(
    cells: Any,
    table: pd.DataFrame,
    mask: CellMask,
    *,
    plane: tuple[int, ...] = (),
    values: Mapping[str, object] | None = None,
    may_replace: Collection[int] | None = None,
) -> Edit:
    """Return the edit that adds a cell; it takes only pixels that are free.

    `cells` is a label image (…, Y, X), NumPy or Zarr, and not changed; `plane` the position in the axes before the last
    two. What of `mask` lies outside the plane is cut off. The new id is the largest plus 1; `values` fill its row. A
    cell of which the mask covers more than `REPLACED_FROM` is replaced, if it is in `may_replace` (None: any). The new
    cell is the largest connected part of what other cells leave. Raises `InputError` if the mask is empty or a cell is
    there.
    """
    shape = plane_shape(cells)
    own = shared_box(mask.bbox, (0, 0, *shape))
    if own is None or not (inside := mask.mask[slices_of(own, mask.bbox[:2])]).any():
        raise InputError("No cell was found there. Click on a cell, or draw a box around it.")
    under = read_window(cells, plane, own)
    covered = np.bincount(under[inside])
    touched = [int(i) for i in np.flatnonzero(covered) if i]
    boxes = {i: find_cell(cells, table, i, plane) for i in touched}
    areas = {i: int((read_window(cells, plane, boxes[i]) == i).sum()) for i in touched}
    replaced = [
        i for i in touched if covered[i] > REPLACED_FROM * areas[i] and (may_replace is None or i in may_replace)
    ]
    free = np.count_nonzero(inside & ((under == 0) | np.isin(under, replaced)))
    if free < max(FREE_FROM * np.count_nonzero(inside), 1):
        there = ", ".join(str(i) for i in touched)
        raise InputError(
            f"Cell {there} is there already. Delete or split it first, or draw a box around what is missing."
        )
    box = union_of([own, *(boxes[i] for i in replaced)])
    before = read_window(cells, plane, box)
    after = np.where(np.isin(before, replaced), 0, before)
    whole = np.zeros(before.shape, bool)
    whole[slices_of(own, box[:2])] = inside
    new_id = int(max(table.index.max() if len(table) else 0, before.max(initial=0))) + 1
    after[largest_part(whole & (after == 0))] = new_id
    row = {"predicted_iou": mask.predicted_iou, "stability_score": mask.stability_score, "type_source": "model"}
    row |= {"cell_type": mask.cell_type or ""} | dict(values or {})
    instead = f" in place of {', '.join(map(str, replaced))}" if replaced else ""
    return make_edit(f"added cell {new_id}{instead}", cells, table, plane, box, before, after, values={new_id: row})


def delete_cells(cells: Any, table: pd.DataFrame, ids: Sequence[int], *, plane: tuple[int, ...] = ()) -> Edit:
    """Return the edit that deletes cells, wherever they lie; arguments as in `add_cell`.

    `plane` is that of cells whose row does not name one.
    """
    ids = list(dict.fromkeys(int(i) for i in ids))
    if not ids or 0 in ids:
        raise InputError(NO_CELL)
    patches = []
    for cell in ids:
        own = plane_of(table, cell, cells.shape[:-2], plane)
        box = find_cell(cells, table, cell, own)
        before = read_window(cells, own, box)
        patches.append(Patch(own, box[:2], before, np.where(before == cell, 0, before)))
    removed = table.loc[table.index.isin(ids)]
    return Edit(f"deleted {_named(ids)}", tuple(patches), removed, removed.iloc[:0])


def merge_cells(cells: Any, table: pd.DataFrame, ids: Sequence[int], *, plane: tuple[int, ...] = ()) -> Edit:
    """Return the edit that merges cells into one with id and type of the largest; arguments as in `add_cell`."""
    ids = list(dict.fromkeys(int(i) for i in ids))
    if len(ids) < 2:
        raise InputError(f"{len(ids)} cell(s) are selected; select two or more to merge them (Shift-click).")
    box = union_of([find_cell(cells, table, i, plane) for i in ids])
    if max(box[2] - box[0], box[3] - box[1]) > MERGED_WITHIN_PX:
        raise InputError(f"{_named(ids)} lie too far apart to be one cell. Select cells that touch each other.")
    before = read_window(cells, plane, box)
    areas = [int(np.count_nonzero(before == i)) for i in ids]
    after = np.where(np.isin(before, ids), ids[int(np.argmax(areas))], before)
    return make_edit(f"merged {_named(ids)}", cells, table, plane, box, before, after)


def split_cell(
    cells: Any, table: pd.DataFrame, cell: int, *, line: tuple[Point, Point] | None = None, plane: tuple[int, ...] = ()
) -> Edit:
    """Return the edit that splits a cell in two, or in more at its waists; arguments as in `add_cell`.

    It is cut along the straight line through two points (y, x), pixels of the plane; None: where it is narrow, by the
    watershed of its distance transform. The largest part keeps the id, the others follow the largest id; all keep the
    type. Raises `InputError` if the line does not cross the cell, or it has no waist.
    """
    if not cell:
        raise InputError(NO_CELL)
    box = find_cell(cells, table, cell, plane)
    before = read_window(cells, plane, box)
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
    """Build the Edit for a stroke already applied to `cells`; `old` (h, w) holds the pixels it replaced at `corner`.

    The table must still be updated with `removed` and `added`, by `replace_rows`.
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
    return make_edit("painted cells", cells, table, plane, box, before, after)


def find_cell(cells: Any, table: pd.DataFrame, cell: int, plane: tuple[int, ...] = ()) -> Box:
    """Return the box (y0, x0, y1, x1) of a cell: the table's if right, else searched; `InputError` if not found."""
    box = box_of(table, cell) if cell in table.index else None
    if box is not None and int((read_window(cells, plane, box) == cell).sum()) == int(table["area_px"].loc[cell]):
        return box
    found = ndimage.find_objects((read_window(cells, plane, (0, 0, *plane_shape(cells))) == cell).astype(np.uint8))
    if not found:
        raise InputError(f"There is no cell {cell} in this plane.")
    rows, columns = found[0]
    return rows.start, columns.start, rows.stop, columns.stop


def _parts_at_waists(own: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return parts 1..K of a mask (h, w): watershed of the distance transform from its prominent maxima."""
    from skimage import morphology, segmentation

    h_maxima: Any = morphology.h_maxima
    watershed: Any = segmentation.watershed
    distance = ndimage.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    markers, _ = ndimage.label(h_maxima(distance, WAIST_PX), np.ones((3, 3)))
    return np.asarray(watershed(-distance, markers, mask=own), np.int32)


def _named(ids: Sequence[int]) -> str:
    return f"cell{'s' if len(ids) > 1 else ''} {', '.join(map(str, ids))}" if len(ids) < 9 else f"{len(ids):,} cells"


def make_edit(
    what: str,
    cells: Any,
    table: pd.DataFrame,
    plane: tuple[int, ...],
    box: Box,
    before: NDArray[np.int32],
    after: NDArray[np.int32],
    *,
    parents: Mapping[int, int] | None = None,
    values: Mapping[int, Mapping[str, object]] | None = None,
) -> Edit:
    """Return the edit from `before` to `after` in a box that holds every changed cell whole; cells are remeasured.

    `parents` names the row from which a new id starts, `values` further columns of its row.
    """
    differs = before != after
    changed = [int(i) for i in np.union1d(before[differs], after[differs]) if i]
    removed = table.loc[table.index.isin(changed)]
    rows = []
    for i in changed:
        mask = after == i
        if not mask.any():
            continue
        parent = (parents or {}).get(i, i)
        measured = measure_cell(mask, box[:2], plane_shape(cells))
        fresh = {"predicted_iou": np.nan, "stability_score": np.nan, "cells_in_region": 1}
        row = dict(table.loc[parent]) if parent in table.index else blank_row(table, plane, cells.shape[:-2])
        rows.append(row | fresh | measured | dict((values or {}).get(i, {})))
    ids = [i for i in changed if (after == i).any()]
    return Edit(what, (Patch(plane, box[:2], before, after),), removed, _rows(rows, ids, table))


def measure_cell(mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, int]) -> dict[str, object]:
    """Return the measured columns of one cell, its mask (h, w) at `corner` of a plane, as by `measure_cells`."""
    table = table_of_measured(measure(mask.astype(np.uint8), corner), shape)
    return {name: table.at[1, name] for name in ("area_px", *BOX, *CENTROID, "touches_edge")}


def blank_row(table: pd.DataFrame, plane: tuple[int, ...] = (), stack: tuple[int, ...] = ()) -> dict[str, object]:
    """Return the row of an unknown cell, with values that each column's dtype can hold."""
    blanks: dict[str, object] = {"b": False, "i": 0, "u": 0, "f": np.nan}
    row = {str(name): blanks.get(getattr(dtype, "kind", "O"), None) for name, dtype in table.dtypes.items()}
    row |= {"cell_type": "", "type_source": "user", "probability": np.nan}
    if plane and "plane" in table.columns:
        row["plane"] = int(np.ravel_multi_index(plane, stack))
    return row


def plane_of(
    table: pd.DataFrame, cell: int, stack: tuple[int, ...], otherwise: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Return the plane of a cell of a stack from its row, else `otherwise`."""
    if not stack or "plane" not in table.columns or cell not in table.index:
        return otherwise
    return tuple(int(i) for i in np.unravel_index(int(table["plane"].loc[cell]), stack))


def replace_rows(table: pd.DataFrame, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return the table, sorted by id, without the rows of `old` and with those of `new`; dtypes stay."""
    kept = table.drop(index=table.index.intersection(old.index.union(new.index)))
    if new.empty:
        return kept
    new = new.reindex(columns=table.columns)
    result = new if kept.empty else pd.concat([kept, new.astype(kept.dtypes.to_dict())])
    result = result.sort_index()
    result.index.name = table.index.name
    return result


def _rows(rows: list[dict[str, object]], ids: list[int], table: pd.DataFrame) -> pd.DataFrame:
    """Return rows as a frame with the table's columns and dtypes."""
    columns = {
        str(name): pd.Series([row.get(str(name)) for row in rows], index=ids, dtype=object).astype(dtype)
        for name, dtype in table.dtypes.items()
    }
    return pd.DataFrame(columns, index=pd.Index(ids, dtype=table.index.dtype, name=table.index.name))


def read_window(cells: Any, plane: tuple[int, ...], box: Box) -> NDArray[np.int32]:
    """Return a copy of the labels in a box of one plane, (h, w)."""
    return np.array(cells[window_of(plane, box)], np.int32)


def window_of(plane: tuple[int, ...], box: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return the index of a box of one plane."""
    return (*plane, slice(box[0], box[2]), slice(box[1], box[3]))


def plane_shape(cells: Any) -> tuple[int, int]:
    """Return (Y, X) of a label image (…, Y, X)."""
    return int(cells.shape[-2]), int(cells.shape[-1])
