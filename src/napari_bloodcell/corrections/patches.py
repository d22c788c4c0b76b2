"""Edits as patches: a small window of a label image before and after, with the rows of the changed cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import BOX, CENTROID, measure, table_of_measured
from napari_bloodcell.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Box = tuple[int, int, int, int]

MOST_EDITS = 1000
"""Edits that can be undone; older ones are forgotten."""


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One change of a label image (…, Y, X) and of its table, with all that is needed to take it back.

    Attributes
    ----------
    what : str
        What was done, for people: "split cell 5".
    plane : tuple of int
        Position in the axes before the last two; () for a single image.
    corner : tuple of int
        (y, x) of the patch, pixels.
    before, after : ndarray of int32, shape (h, w)
        The patch's labels.
    removed, added : DataFrame
        Rows of the changed cells before and after.
    """

    what: str
    plane: tuple[int, ...]
    corner: tuple[int, int]
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    removed: pd.DataFrame
    added: pd.DataFrame

    @property
    def window(self) -> tuple[int | slice, ...]:
        """Where the patch lies in the label image."""
        (y, x), (height, width) = self.corner, self.before.shape
        return window_of(self.plane, (y, x, y + height, x + width))

    def apply(self, cells: Any, table: pd.DataFrame) -> pd.DataFrame:
        """Write the patch into `cells` and return the table with the new rows.

        Raises
        ------
        InputError
            If the patch's pixels were changed by something else since.
        """
        self._write(cells, self.before, self.after)
        return replace_rows(table, self.removed, self.added)

    def revert(self, cells: Any, table: pd.DataFrame) -> pd.DataFrame:
        """Undo `apply`; the same arguments, result and errors."""
        self._write(cells, self.after, self.before)
        return replace_rows(table, self.added, self.removed)

    def _write(self, cells: Any, old: NDArray[np.int32], new: NDArray[np.int32]) -> None:
        if not np.array_equal(np.asarray(cells[self.window]), old):
            raise InputError(f"The cells changed in another way since: {self.what!r} cannot be undone or done again.")
        cells[self.window] = new.astype(cells.dtype)


@dataclass(slots=True)
class History:
    """Edits that can be undone, and those that were undone and can be done again."""

    done: list[Edit] = field(default_factory=list)
    undone: list[Edit] = field(default_factory=list)

    def do(self, edit: Edit, cells: Any, table: pd.DataFrame) -> pd.DataFrame:
        """Apply an edit, remember it, and return the new table."""
        table = edit.apply(cells, table)
        self.remember(edit)
        return table

    def remember(self, edit: Edit) -> None:
        """Remember an edit that is applied already; what was undone cannot be done again after it."""
        self.done.append(edit)
        del self.done[:-MOST_EDITS]
        self.undone.clear()

    def undo(self, cells: Any, table: pd.DataFrame) -> tuple[Edit, pd.DataFrame]:
        """Take the last edit back; return it and the table as it was.

        Raises
        ------
        InputError
            If there is none, or its pixels were changed by something else since: it is then forgotten.
        """
        if not self.done:
            raise InputError("There is no edit of cells left to undo.")
        edit = self.done.pop()
        table = edit.revert(cells, table)
        self.undone.append(edit)
        return edit, table

    def redo(self, cells: Any, table: pd.DataFrame) -> tuple[Edit, pd.DataFrame]:
        """Do the edit again that was undone last; result and errors are those of `undo`."""
        if not self.undone:
            raise InputError("There is no undone edit of cells to do again.")
        edit = self.undone.pop()
        table = edit.apply(cells, table)
        self.done.append(edit)
        return edit, table

    def clear(self) -> None:
        """Forget everything: the label image was replaced."""
        self.done.clear()
        self.undone.clear()


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
    """Return the edit from `before` to `after` in a box that holds every changed cell whole: those are measured anew.

    `parents` says from whose row a new id starts, `values` what else its row holds.
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
    return Edit(what, plane, box[:2], before, after, removed, _rows(rows, ids, table))


def measure_cell(mask: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, int]) -> dict[str, object]:
    """Return the measured columns of one cell, its mask (h, w) at `corner` of a plane, as `measure_cells` does."""
    table = table_of_measured(measure(mask.astype(np.uint8), corner), shape)
    return {name: table.at[1, name] for name in ("area_px", *BOX, *CENTROID, "touches_edge")}


def blank_row(table: pd.DataFrame, plane: tuple[int, ...] = (), stack: tuple[int, ...] = ()) -> dict[str, object]:
    """Return the row of a cell of which nothing is known, with a value that each column's dtype can hold."""
    blanks: dict[str, object] = {"b": False, "i": 0, "u": 0, "f": np.nan}
    row = {str(name): blanks.get(getattr(dtype, "kind", "O"), None) for name, dtype in table.dtypes.items()}
    row |= {"cell_type": "", "type_source": "user", "probability": np.nan}
    if plane and "plane" in table.columns:
        row["plane"] = int(np.ravel_multi_index(plane, stack))
    return row


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


def write_level(level: Any, cells: Any, edit: Edit) -> None:
    """Write an edit of the finest level into a coarser one, whose pixels are every n-th of the finest."""
    step = round(cells.shape[-1] / level.shape[-1])
    (y, x), (height, width) = edit.corner, edit.before.shape
    top, left = -(-y // step), -(-x // step)
    bottom = min(-(-(y + height) // step), level.shape[-2])
    right = min(-(-(x + width) // step), level.shape[-1])
    if bottom > top and right > left:
        box = (top * step, left * step, (bottom - 1) * step + 1, (right - 1) * step + 1)
        picked = read_window(cells, edit.plane, box)
        level[window_of(edit.plane, (top, left, bottom, right))] = picked[::step, ::step].astype(level.dtype)


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


def union_of(boxes: Sequence[Box]) -> Box:
    """Return the smallest box around all of these."""
    y0, x0, y1, x1 = zip(*boxes, strict=True)
    return min(y0), min(x0), max(y1), max(x1)
