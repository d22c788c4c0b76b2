"""The cell table as a layer's `features`, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import (
    BLANKS,
    BOX,
    CENTROID,
    COLUMNS,
    LATER,
    NO_KIND,
    boxes_of,
    cell_table,
    centroids_of,
    split_name,
    with_later,
)
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.napari.layers.images import plane_number
from napari_bloodcell.stages.red_cells.measurements import COLUMNS as MEASURED

INDEX: Final = "index"
"""Column of the label id; the row of id 0 is the background."""
PLANE: Final = "plane"
"""In stacks, the column of the plane's number, counted from 0."""
FEW: Final = 16
"""Up to this many rows are written one at a time."""
_NEEDED: Final = (INDEX, "cell_type", "probability", "type_source", "area_px", *BOX, *CENTROID)


def to_features(table: pd.DataFrame) -> pd.DataFrame:
    """Convert a cell table (index = id) to features: sorted ids in `index`, and a first row for the background."""
    table = table.sort_index()
    known = [name for name in COLUMNS if name in table.columns]
    others = [name for name in map(str, table.columns) if name not in COLUMNS]
    columns: dict[str, Any] = {INDEX: np.concatenate([[0], table.index.to_numpy(np.int64)])}
    return pd.DataFrame(columns | {name: _with_background(table[name]) for name in [*known, *others]})


def is_table(features: pd.DataFrame) -> bool:
    """Return whether features hold a cell table; those of other programs do not."""
    return all(name in features.columns for name in _NEEDED)


def to_table(features: pd.DataFrame, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Convert features back to the cell table, or to some of its columns.

    Raises `InputError` if there is no column `index`.
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
    """Convert features to a complete cell table, as it is written to disk, with what was measured."""
    table = to_table(features)
    texts = {name: table[name].fillna(BLANKS[name]) for name in table.columns if name in BLANKS}
    measured = {name: table[name] for name in MEASURED if name in table.columns}
    return cell_table(table.index, **{**table, **texts}).assign(**measured)


def rows_of(features: pd.DataFrame, ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Return the rows of these ids in features that `to_features` made; unknown ids are left out."""
    index = features[INDEX].to_numpy(np.int64)
    wanted = np.atleast_1d(np.asarray(ids, np.int64))
    rows = np.minimum(np.searchsorted(index, wanted), len(index) - 1)
    return np.asarray(rows[(index[rows] == wanted) & (wanted != 0)], np.intp)


def write_types(
    features: pd.DataFrame, ids: NDArray[np.int64], columns: Mapping[str, Any]
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Write columns of the type of cells, one value for all or one for each; return rows and which ids exist, (N,).

    Where the type changes, the kind that is not given is forgotten: it was one of the type before.
    """
    rows = rows_of(features, ids)
    there = np.isin(ids, features[INDEX].to_numpy(np.int64)[rows])
    each = {name: np.broadcast_to(np.asarray(value, object), ids.shape)[there] for name, value in columns.items()}
    if "subtype" in features.columns and "subtype" not in each:
        others = rows[features["cell_type"].to_numpy(object)[rows] != each["cell_type"]]
        for name in NO_KIND.keys() & set(features.columns):
            _put(features, others, name, np.full(len(others), NO_KIND[name], object))
    for name, values in each.items():
        is_blank = pd.isna(values) if pd.isna(LATER.get(name, "")) else values == LATER.get(name)
        if name not in features.columns and name in LATER and not is_blank.all():  # a table of an earlier version
            features[name] = pd.Series(LATER[name], features.index, dtype=COLUMNS[name])
        if name in features.columns:
            _put(features, rows, name, values)
    return rows, there


def is_called(features: pd.DataFrame, name: str) -> NDArray[np.bool_]:
    """Return which rows hold cells of a type, or of a kind ("WBC: neutrophil"), (N,)."""
    cell_type, kind = split_name(name)
    found = (features["cell_type"] == cell_type).to_numpy(bool)
    if not kind:
        return found
    return found & (features["subtype"] == kind).to_numpy(bool) if "subtype" in features.columns else found & False


def certainty_of(features: pd.DataFrame, name: str | None) -> NDArray[np.float64]:
    """Return how probable each row's type is, or its kind if `name` is that of a kind, (N,)."""
    is_kind = name is not None and bool(split_name(name)[1]) and "subtype_probability" in features.columns
    return features["subtype_probability" if is_kind else "probability"].to_numpy(np.float64)


def _put(features: pd.DataFrame, rows: NDArray[np.intp], column: str, values: NDArray[np.object_]) -> None:
    """Set a column in some rows. A few are set in place, because pandas copies the whole column for an array."""
    place, frame = features.columns.get_loc(column), cast("Any", features)
    if len(rows) > FEW:
        frame.iloc[rows, place] = values if features[column].dtype.kind == "O" else values.tolist()
        return
    for row, value in zip(rows.tolist(), values.tolist(), strict=True):
        frame.iat[row, place] = value


def boxes_in(features: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """Return the boxes of some rows, int64 (N, 4), (y0, x0, y1, x1) in pixels; None if the table has no boxes."""
    return boxes_of(features.iloc[rows]) if BOX[0] in features.columns else None


def by_hand(features: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows hold a person's decision, (N,)."""
    if "type_source" not in features.columns:
        return np.zeros(len(features), np.bool_)
    return (features["type_source"] == "user").to_numpy(bool)


def with_user_types(features: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return a cell table in which cells that a person has typed, according to `features`, keep that type."""
    if INDEX not in features.columns:
        return table
    decided = features[by_hand(features)]
    ids = table.index.intersection(pd.Index(decided[INDEX].to_numpy(np.int64)))
    if not len(ids):
        return table
    table, decided = with_later(table).copy(), with_later(decided.set_index(INDEX)).loc[ids]
    retyped = ids[(table.loc[ids, "cell_type"] != decided["cell_type"]).to_numpy(bool)]
    for column, value in NO_KIND.items():
        table.loc[retyped, column] = value
    told = ids[(decided["subtype_source"] == "user").to_numpy(bool)]
    for column in ("cell_type", "probability", "type_source", "abnormal"):
        table.loc[ids, column] = decided[column].tolist()
    for column in NO_KIND:
        table.loc[told, column] = decided.loc[told, column].tolist()
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
    return pd.Series(filled, dtype=object)  # pandas' text columns are copied whole when one cell changes


def places_of(features: pd.DataFrame, ids: list[int], stack: tuple[int, ...]) -> dict[int, tuple[Box, tuple[int, ...]]]:
    """Return box (y0, x0, y1, x1) and plane of cells by id; cells without a box are left out."""
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


def rows_on_plane(table: pd.DataFrame, index: tuple[int, ...], stack: tuple[int, ...]) -> pd.DataFrame:
    """Return the rows of one plane of a stack; all rows if there is one plane only."""
    return table[table[PLANE] == plane_number(index, stack)] if stack and PLANE in table.columns else table


def cells_in_box(
    features: pd.DataFrame, box: tuple[float, float, float, float], *, plane: int | None = None
) -> NDArray[np.int64]:
    """Return the ids of cells whose centre lies in a box (y0, x0, y1, x1), pixels; in a stack, on one plane."""
    if CENTROID[0] not in features.columns:
        return np.empty(0, np.int64)
    y, x = centroids_of(features).T
    inside = (y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3])
    if plane is not None and PLANE in features.columns:
        inside &= features[PLANE].to_numpy() == plane
    ids = features[INDEX].to_numpy(np.int64)
    return np.asarray(ids[inside & (ids != 0)], np.int64)


def cells_near(features: pd.DataFrame, box: Box, *, plane: int | None = None) -> NDArray[np.int64]:
    """Return the ids of cells whose boxes touch a box (y0, x0, y1, x1), pixels; in a stack, on one plane."""
    if BOX[0] not in features.columns:
        return np.empty(0, np.int64)
    y0, x0, y1, x1 = boxes_of(features).T
    near = (y0 < box[2]) & (y1 > box[0]) & (x0 < box[3]) & (x1 > box[1])
    if plane is not None and PLANE in features.columns:
        near &= features[PLANE].to_numpy() == plane
    return np.asarray(features[INDEX].to_numpy(np.int64)[near], np.int64)


def cells_outside(features: pd.DataFrame, ids: Sequence[int] | NDArray[np.integer[Any]], box: Box) -> NDArray[np.int64]:
    """Return those of `ids` that lie wholly outside a box (y0, x0, y1, x1), pixels."""
    rows = rows_of(features, ids) if len(ids) else np.empty(0, np.intp)
    boxes = boxes_in(features, rows)
    if boxes is None:
        return np.empty(0, np.int64)
    y0, x0, y1, x1 = boxes.T
    outside = (y1 <= box[0]) | (y0 >= box[2]) | (x1 <= box[1]) | (x0 >= box[3])
    return np.asarray(features[INDEX].to_numpy(np.int64)[rows[outside]], np.int64)
