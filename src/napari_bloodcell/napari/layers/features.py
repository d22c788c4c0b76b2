"""The cell table as a layer's `features`, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import BLANKS, BOX, CENTROID, COLUMNS, boxes_of, cell_table, centroids_of
from napari_bloodcell.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray


INDEX: Final = "index"
"""Column that holds the label id; the row of 0 is the background."""
PLANE: Final = "plane"
"""Column of the cells of a stack: the number of the plane, counted from 0."""
FEW: Final = 16
"""Up to so many rows are written one by one."""
_NEEDED: Final = (INDEX, "cell_type", "probability", "type_source", "area_px", *BOX, *CENTROID)


def to_features(table: pd.DataFrame) -> pd.DataFrame:
    """Return a cell table (index = id) as features: rising ids in `index`, and a first row for the background."""
    table = table.sort_index()
    known = [name for name in COLUMNS if name in table.columns]
    others = [name for name in map(str, table.columns) if name not in COLUMNS]
    columns: dict[str, Any] = {INDEX: np.concatenate([[0], table.index.to_numpy(np.int64)])}
    return pd.DataFrame(columns | {name: _with_background(table[name]) for name in [*known, *others]})


def is_table(features: pd.DataFrame) -> bool:
    """Return whether features hold a cell table, which those of another program do not."""
    return all(name in features.columns for name in _NEEDED)


def to_table(features: pd.DataFrame, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return features as the cell table that they were made of, or only these columns of it.

    Raises
    ------
    InputError
        If there is no column `index`.
    """
    if INDEX not in features.columns:
        raise InputError(
            "The layer has no table of cells: its features lack the column 'index'. Type its cells first: "
            "the Classify dock, or classify_layer."
        )
    ids = features[INDEX].to_numpy(np.int64)
    rows = ids != 0
    known = [name for name in COLUMNS if name in features.columns]
    others = [str(name) for name in features.columns if name != INDEX and name not in COLUMNS]
    table = {name: features[name].to_numpy()[rows] for name in [*known, *others] if columns is None or name in columns}
    result = pd.DataFrame(table, index=pd.Index(ids[rows], name="id"))
    return result.astype({name: COLUMNS[name] for name in result.columns if name in COLUMNS})


def full_table(features: pd.DataFrame) -> pd.DataFrame:
    """Return features as a cell table with all columns of one, as it is written."""
    table = to_table(features)
    texts = {name: table[name].fillna(BLANKS[name]) for name in table.columns if name in BLANKS}
    return cell_table(table.index, **{**table, **texts})


def rows_of(features: pd.DataFrame, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Return the rows of these ids in features that `to_features` made; ids that are not there are left out."""
    index = features[INDEX].to_numpy(np.int64)
    wanted = np.atleast_1d(np.asarray(ids, np.int64))
    rows = np.minimum(np.searchsorted(index, wanted), len(index) - 1)
    return np.asarray(rows[(index[rows] == wanted) & (wanted != 0)], np.intp)


def write_types(
    features: pd.DataFrame, ids: NDArray[np.int64], types: Any, probabilities: Any, sources: Any
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Write types of cells, one value or one for each, and return their rows and which of the ids are there (N,)."""
    rows = rows_of(features, ids)
    there = np.isin(ids, features[INDEX].to_numpy(np.int64)[rows])
    for column, value in (("cell_type", types), ("probability", probabilities), ("type_source", sources)):
        _put(features, rows, column, np.broadcast_to(np.asarray(value, object), ids.shape)[there])
    return rows, there


def _put(features: pd.DataFrame, rows: NDArray[np.intp], column: str, values: NDArray[np.object_]) -> None:
    """Write a column of some rows: a few one by one, in place; at once pandas would copy the column."""
    place, frame = features.columns.get_loc(column), cast("Any", features)
    if len(rows) > FEW:
        frame.iloc[rows, place] = values if features[column].dtype.kind == "O" else values.tolist()
        return
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        frame.iat[row, place] = value


def boxes_in(features: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return the boxes of some rows, int64 (N, 4), (y0, x0, y1, x1) in pixels; None where the table has none."""
    return boxes_of(features.iloc[rows]) if BOX[0] in features.columns else None


def by_hand(features: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows a person decided on, (N,)."""
    if "type_source" not in features.columns:
        return np.zeros(len(features), np.bool_)
    return (features["type_source"] == "user").to_numpy(bool)


def with_user_types(features: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return a cell table in which cells that a person typed meanwhile, as features say, keep that type."""
    if INDEX not in features.columns:
        return table
    decided = features[by_hand(features)]
    ids = table.index.intersection(pd.Index(decided[INDEX].to_numpy(np.int64)))
    if not len(ids):
        return table
    table, decided = table.copy(), decided.set_index(INDEX)
    for column in ("cell_type", "probability", "type_source"):
        table.loc[ids, column] = decided.loc[ids, column].tolist()
    return table


def _with_background(column: pd.Series[Any]) -> Any:
    values = column.to_numpy()
    if values.dtype.kind == "b":
        return np.concatenate([[False], values])
    if values.dtype.kind in "iu":
        return np.concatenate([np.zeros(1, values.dtype), values])
    if values.dtype.kind == "f":
        return np.concatenate([[np.nan], values])
    filled = np.empty(len(values) + 1, object)
    filled[0], filled[1:] = None, values
    return pd.Series(filled, dtype=object)  # pandas' own text columns are copied whole for one new type


def places_of(
    features: pd.DataFrame, ids: list[int], stack: tuple[int, ...]
) -> dict[int, tuple[tuple[int, int, int, int], tuple[int, ...]]]:
    """Return box (y0, x0, y1, x1) and plane of cells by id; those without a box are left out."""
    places = {}
    for cell in ids:
        rows = rows_of(features, [cell])
        boxes = boxes_in(features, rows)
        if boxes is None or not len(rows):
            continue
        plane: tuple[int, ...] = ()
        if stack and PLANE in features.columns:
            plane = tuple(int(i) for i in np.unravel_index(int(features[PLANE].to_numpy(np.int64)[rows[0]]), stack))
        y0, x0, y1, x1 = (int(v) for v in boxes[0])
        places[cell] = (y0, x0, y1, x1), plane
    return places


def cells_in_box(
    features: pd.DataFrame, box: tuple[float, float, float, float], *, plane: int | None = None
) -> NDArray[np.int64]:
    """Return the ids of the cells whose centre lies in a box (y0, x0, y1, x1), pixels, of one plane of a stack."""
    if CENTROID[0] not in features.columns:
        return np.empty(0, np.int64)
    y, x = centroids_of(features).T
    inside = (y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3])
    if plane is not None and PLANE in features.columns:
        inside &= features[PLANE].to_numpy() == plane
    ids = features[INDEX].to_numpy(np.int64)
    return np.asarray(ids[inside & (ids != 0)], np.int64)


def cells_near(
    features: pd.DataFrame, box: tuple[int, int, int, int], *, plane: int | None = None
) -> NDArray[np.int64]:
    """Return the ids of the cells whose boxes touch a box (y0, x0, y1, x1), pixels, of one plane of a stack."""
    if BOX[0] not in features.columns:
        return np.empty(0, np.int64)
    y0, x0, y1, x1 = boxes_of(features).T
    near = (y0 < box[2]) & (y1 > box[0]) & (x0 < box[3]) & (x1 > box[1])
    if plane is not None and PLANE in features.columns:
        near &= features[PLANE].to_numpy() == plane
    return np.asarray(features[INDEX].to_numpy(np.int64)[near], np.int64)


def cells_outside(
    features: pd.DataFrame, ids: Sequence[int] | NDArray[np.integer[Any]], box: tuple[int, int, int, int]
) -> NDArray[np.int64]:
    """Return those of some cells that lie wholly outside of a box (y0, x0, y1, x1), pixels."""
    rows = rows_of(features, ids) if len(ids) else np.empty(0, np.intp)
    boxes = boxes_in(features, rows)
    if boxes is None:
        return np.empty(0, np.int64)
    y0, x0, y1, x1 = boxes.T
    outside = (y1 <= box[0]) | (y0 >= box[2]) | (x1 <= box[1]) | (x0 >= box[3])
    return np.asarray(features[INDEX].to_numpy(np.int64)[rows[outside]], np.int64)
