"""Puts cells found in part of a smear into an earlier result."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import BOX, CENTROID, boxes_of, centroids_of, measure_cells
from napari_bloodcell.core.geometry import Box

SAME_FROM = 0.5
"""A new cell of which an earlier cell that stays covers more than this share is that cell."""
CARRIED_FROM = 0.5
"""A type set by hand is kept by the new cell that overlaps the old one with at least this IoU."""


def replace_cells(
    cells: NDArray[np.int32],
    table: pd.DataFrame,
    new_cells: NDArray[np.int32],
    new_table: pd.DataFrame,
    *,
    within: Box | None = None,
    except_in: Sequence[Box] = (),
    keep: Collection[int] = (),
    first_id: int | None = None,
) -> tuple[NDArray[np.int32], pd.DataFrame]:
    """Replace the cells in part of a plane; nothing given is changed.

    `cells` and `new_cells` are label images (Y, X) int32. Earlier cells whose centroid lies in the box `within` (None:
    everywhere) go, except in the boxes `except_in`, tiles that failed or were not reached, and except the ids `keep`.
    Those that stay keep their ids; new ones are numbered from `first_id`, by default after the largest. A new cell
    takes over the type that a user gave to the cell in its place.
    """
    goes = _is_replaced(table, within, except_in) & ~table.index.isin(list(keep))
    carried = _types_by_hand(cells, table[goes & (table["type_source"] == "user")], new_cells)
    new_table = _with_types(new_table, carried)
    if goes.all():
        shift = (first_id or 1) - 1
        moved = new_table.set_axis(pd.Index(new_table.index + shift, name="id"))
        return np.where(new_cells > 0, new_cells + shift, 0).astype(np.int32), moved
    kept = table[~goes]
    stays = np.zeros(int(cells.max(initial=0)) + 1, bool)
    stays[kept.index.to_numpy()] = True
    merged = np.where(stays[cells], cells, 0).astype(np.int32)
    fits = _share_covered(new_cells, merged) <= SAME_FROM
    fits[0] = False
    first = first_id or int(table.index.max()) + 1
    numbers = np.zeros(fits.size, np.int32)
    numbers[fits] = first + np.arange(int(fits.sum()), dtype=np.int32)
    added = np.where(merged == 0, numbers[new_cells], 0)
    merged += added
    rows = _measured_again(added, new_table, numbers)
    result = pd.concat([kept, rows]) if len(rows) else kept.copy()
    result.index.name = "id"
    return merged, result


def _is_replaced(table: pd.DataFrame, within: Box | None, except_in: Sequence[Box]) -> pd.Series[bool]:
    """Return which rows lie, by their centroid, in the part to replace."""
    centres = centroids_of(table)

    def inside(box: Box) -> NDArray[np.bool_]:
        y0, x0, y1, x1 = box
        rows = (centres[:, 0] >= y0 - 0.5) & (centres[:, 0] < y1 - 0.5)
        return np.asarray(rows & (centres[:, 1] >= x0 - 0.5) & (centres[:, 1] < x1 - 0.5))

    goes = np.ones(len(table), bool) if within is None else inside(within)
    for box in except_in:
        goes &= ~inside(box)
    return pd.Series(goes, index=table.index)


def _share_covered(new_cells: NDArray[np.int32], kept_cells: NDArray[np.int32]) -> NDArray[np.float64]:
    """Return the share of each new id's pixels that cells that stay already have, shape (N + 1,)."""
    size = int(new_cells.max(initial=0)) + 1
    area = np.bincount(new_cells.ravel(), minlength=size)
    covered = np.bincount(new_cells[kept_cells > 0], minlength=size)
    return covered / np.maximum(area, 1)


def _measured_again(added: NDArray[np.int32], new_table: pd.DataFrame, numbers: NDArray[np.int32]) -> pd.DataFrame:
    """Return the rows of the added cells under their new ids, measured without pixels that neighbours keep."""
    measured = measure_cells(added)
    old_id = {int(new): old for old, new in enumerate(numbers) if new}
    source = new_table.loc[[old_id[int(i)] for i in measured.index]].set_axis(measured.index)
    for column in ("area_px", *BOX, *CENTROID, "touches_edge"):
        source[column] = measured[column]
    return source


def _types_by_hand(
    cells: NDArray[np.int32], typed: pd.DataFrame, new_cells: NDArray[np.int32]
) -> dict[int, tuple[str, float]]:
    """Return new id → (type, probability) for cells typed by a user that were found again."""
    carried: dict[int, tuple[str, float]] = {}
    if typed.empty:
        return carried
    areas = np.bincount(new_cells.ravel())
    columns = (typed.index, boxes_of(typed).tolist(), typed["cell_type"], typed["probability"])
    for cell, box, name, probability in zip(*columns, strict=True):
        y0, x0, y1, x1 = box
        mask = cells[y0:y1, x0:x1] == cell
        found = np.bincount(new_cells[y0:y1, x0:x1][mask])
        found[:1] = 0
        if not found.any():
            continue
        best = int(found.argmax())
        union = int(mask.sum()) + int(areas[best]) - int(found[best])
        if found[best] >= CARRIED_FROM * union:
            carried[best] = (str(name), float(probability))
    return carried


def _with_types(table: pd.DataFrame, types: dict[int, tuple[str, float]]) -> pd.DataFrame:
    table = table.copy()
    for cell, (name, probability) in types.items():
        if cell in table.index:
            table.at[cell, "cell_type"] = name
            table.at[cell, "probability"] = probability
            table.at[cell, "type_source"] = "user"
    return table
