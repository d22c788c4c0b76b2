"""Cell types and the cell table: one row per cell, index = label id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_bloodcell.core.errors import InputError

RBC, WBC, PLATELET, UNIDENTIFIED = "RBC", "WBC", "platelet", "unidentified"
BUILTIN_TYPES: tuple[str, ...] = (RBC, WBC, PLATELET)
"""Codes 1, 2 and 3 of the typed image; user classes follow in the order they were made."""

TYPE_COLOURS: dict[str, str] = {RBC: "#e0312f", WBC: "#2fb344", PLATELET: "#f5a524", UNIDENTIFIED: "#8a8f98"}
"""Colours of types (paper §3.5: RBC red, WBC green)."""
USER_COLOURS: tuple[str, ...] = ("#3b82f6", "#a855f7", "#14b8a6", "#ec4899", "#84cc16", "#f97316", "#6366f1", "#eab308")

KINDS: dict[str, tuple[str, ...]] = {
    WBC: ("neutrophil", "lymphocyte", "monocyte", "eosinophil", "basophil", "immature granulocyte", "erythroblast"),
    RBC: (
        *("normal", "macrocyte", "microcyte", "spherocyte", "target", "stomatocyte", "ovalocyte", "elliptocyte"),
        *("teardrop", "burr", "schistocyte", "hypochromic", "infected"),
    ),
}
"""Kinds of each type in the order in which they are shown; others follow."""
KIND_COLOURS: tuple[str, ...] = (
    *("#e69f00", "#56b4e9", "#d55e00", "#f0e442", "#0072b2", "#009e73", "#cc79a7"),  # Okabe & Ito 2008
    *("#332288", "#882255", "#999933", "#44aa99", "#661100"),  # Tol 2021, muted
)
"""Colours of kinds that people with any colour vision tell apart, in the order of the kinds of a type."""
NO_KIND_COLOUR = TYPE_COLOURS[UNIDENTIFIED]

BOX = ("bbox_y0", "bbox_x0", "bbox_y1", "bbox_x1")
"""Columns of a cell's box, half-open, pixels."""
CENTROID = ("centroid_y", "centroid_x")
"""Columns of its centre of mass, pixels."""
COLUMNS: dict[str, str] = {
    "cell_type": "object",
    "probability": "float64",
    "type_source": "object",
    "area_px": "int64",
    **dict.fromkeys(BOX, "int64"),
    **dict.fromkeys(CENTROID, "float64"),
    "predicted_iou": "float64",
    "stability_score": "float64",
    "cells_in_region": "int64",
    "touches_edge": "bool",
    "proposed_type": "object",
    "proposed_probability": "float64",
    "subtype": "object",
    "subtype_probability": "float64",
    "subtype_source": "object",
    "abnormal": "bool",
}
"""Columns of the cell table with their dtypes, the same in memory, as a layer's features, in CSV and in Parquet.
`type_source` and `subtype_source` are "model" or "user". `subtype` is the kind of the cell's type, such as
"neutrophil", "" where nobody told it. `abnormal` is a mark that a person set. `cells_in_region` is 1 until cells are
counted. `proposed_type` and `proposed_probability` are the mask generator's own opinion, "" and NaN where it has
none."""
NO_KIND: dict[str, Any] = {"subtype": "", "subtype_probability": np.nan, "subtype_source": "model"}
"""What a cell whose kind nobody told has."""
LATER: dict[str, Any] = {**NO_KIND, "abnormal": False}
"""Columns that tables of earlier versions lack, and what they hold then."""
BLANKS: dict[str, str] = {
    **{"cell_type": "", "type_source": "model", "proposed_type": ""},
    **{"subtype": "", "subtype_source": "model"},
}
"""Text columns of an untyped cell."""
_NUMBERS: dict[str, float] = {
    **{"cells_in_region": 1, "area_px": 0, **dict.fromkeys(BOX, 0)},
    **{"touches_edge": False, "abnormal": False},
}
_SUMS = ("y_sum", "x_sum")
_MEASURED = ("area_px", *BOX, *_SUMS)


def type_names(user_classes: Sequence[str] = ()) -> list[str]:
    """Return the names of all types; the code of a type in the typed image is its position plus 1."""
    extra = [c for c in user_classes if c not in BUILTIN_TYPES and c != UNIDENTIFIED]
    return [*BUILTIN_TYPES, *dict.fromkeys(extra), UNIDENTIFIED]


def type_colour(name: str, names: Sequence[str]) -> str:
    """Return the colour of a type as "#rrggbb"."""
    if name in TYPE_COLOURS:
        return TYPE_COLOURS[name]
    position = [n for n in names if n not in TYPE_COLOURS].index(name)
    return USER_COLOURS[position % len(USER_COLOURS)]


def kind_names(found: Iterable[str] = ()) -> list[str]:
    """Return the full names of all kinds: those of `KINDS`, then others that were found, such as the user's own."""
    known = [full_name(cell_type, kind) for cell_type, kinds in KINDS.items() for kind in kinds]
    return list(dict.fromkeys([*known, *found]))


def kind_colour(name: str, kinds: Sequence[str]) -> str:
    """Return the colour of a kind by its full name, as "#rrggbb"; "normal" and "unidentified" are grey."""
    cell_type, kind = split_name(name)
    if kind in ("normal", UNIDENTIFIED):
        return NO_KIND_COLOUR
    siblings = [n for n in kinds if split_name(n)[0] == cell_type and split_name(n)[1] not in ("normal", UNIDENTIFIED)]
    return KIND_COLOURS[siblings.index(name) % len(KIND_COLOURS)]


def type_lut(table: pd.DataFrame, names: Sequence[str], n_ids: int | None = None) -> NDArray[np.uint8]:
    """Return the lookup table label id → code of its type, (N + 1,) uint8; 0 for background and untyped cells."""
    size = int(max(table.index.max() if len(table) else 0, n_ids or 0)) + 1
    lut = np.zeros(size, np.uint8)
    codes = {name: i + 1 for i, name in enumerate(names)}
    lut[table.index.to_numpy(np.int64)] = table["cell_type"].map(codes).fillna(0).to_numpy(np.uint8)
    return lut


def cell_table(ids: ArrayLike, **columns: Any) -> pd.DataFrame:
    """Return a cell table for these ids (N,); columns that are not given get the values of an untyped cell."""
    index = pd.Index(np.asarray(ids, np.int64), name="id")
    values = {**dict.fromkeys(COLUMNS, np.nan), **BLANKS, **_NUMBERS, **columns}
    return pd.DataFrame({n: pd.Series(values[n], index, dtype=d) for n, d in COLUMNS.items()})


def with_later(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the columns that those of earlier versions lack."""
    lacking = {name: value for name, value in LATER.items() if name not in table}
    return table.assign(**{n: pd.Series(value, table.index, dtype=COLUMNS[n]) for n, value in lacking.items()})


def full_name(cell_type: str, kind: str) -> str:
    """Return what people call a kind of a type: "WBC: neutrophil"; the type where there is no kind."""
    return f"{cell_type}: {kind}" if kind else cell_type


def split_name(name: str) -> tuple[str, str]:
    """Return type and kind of a `full_name`; the kind of a type's name is ""."""
    cell_type, _, kind = name.partition(": ")
    return cell_type, kind


def check_types(names: Iterable[str]) -> None:
    """Raise `InputError` if a name of a type would be taken for that of a kind by `split_name`."""
    for name in names:
        if split_name(name)[1]:
            raise InputError(
                f"{name!r} cannot be the name of a type: ': ' stands between a type and its kind. Give a name without "
                "it, such as 'giant platelet'."
            )


def boxes_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """Return the boxes (y0, x0, y1, x1) of a table's cells, (N, 4)."""
    return np.stack([table[name].to_numpy(np.int64) for name in BOX], axis=1)


def box_of(table: pd.DataFrame, cell: int) -> tuple[int, int, int, int]:
    """Return the box (y0, x0, y1, x1) of one cell."""
    y0, x0, y1, x1 = (int(table.at[cell, name]) for name in BOX)  # type: ignore[arg-type]
    return y0, x0, y1, x1


def centroids_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """Return the centroids (y, x) of a table's cells, (N, 2)."""
    return np.stack([table[name].to_numpy(np.float64) for name in CENTROID], axis=1)


def measure_cells(cells: NDArray[np.integer], **columns: Any) -> pd.DataFrame:
    """Return the cell table of a (Y, X) label image, untyped, with these further columns (N,) in order of the ids."""
    return table_of_measured(measure(cells), cells.shape, **columns)


def measure(cells: NDArray[np.integer], corner: tuple[int, int] = (0, 0)) -> pd.DataFrame:
    """Return area, box, and sums of y and x of each cell in a part (Y, X) of an image that begins at `corner`."""
    boxes = ndimage.find_objects(cells)
    ids = [i + 1 for i, box in enumerate(boxes) if box is not None]
    rows = np.zeros((len(ids), len(_MEASURED)), np.int64)
    for row, i in zip(rows, ids, strict=True):
        ys, xs = boxes[i - 1]
        own = cells[ys, xs] == i
        in_row, in_column = np.add.reduce(own, 1, np.intp), np.add.reduce(own, 0, np.intp)
        top, left = ys.start + corner[0], xs.start + corner[1]
        bottom, right = ys.stop + corner[0], xs.stop + corner[1]
        sums = in_row @ np.arange(top, bottom), in_column @ np.arange(left, right)
        row[:] = in_row.sum(), top, left, bottom, right, *sums
    return pd.DataFrame(rows, pd.Index(ids, dtype=np.int64, name="id"), _MEASURED)


def join_measured(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Combine what `measure` found in several parts; a cell may lie in more than one."""
    how = {name: "min" if name in BOX[:2] else "max" if name in BOX[2:] else "sum" for name in _MEASURED}
    return pd.concat(parts).groupby(level=0).agg(how)[list(_MEASURED)]


def table_of_measured(measured: pd.DataFrame, shape: tuple[int, ...], **columns: Any) -> pd.DataFrame:
    """Return the cell table for measurements made in an image of `shape` (Y, X)."""
    area, boxes = measured["area_px"].to_numpy(np.int64), boxes_of(measured)
    columns |= dict(zip(BOX, boxes.T, strict=True)) | {"area_px": area}
    columns |= {name: measured[total].to_numpy() / area for name, total in zip(CENTROID, _SUMS, strict=True)}
    columns["touches_edge"] = (boxes[:, :2] == 0).any(1) | (boxes[:, 2:] == shape).any(1)
    return cell_table(measured.index, **columns)
