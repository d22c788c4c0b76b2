"""Cell types and the cell table: one row per cell, index = label id."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

RBC, WBC, PLATELET, UNIDENTIFIED = "RBC", "WBC", "platelet", "unidentified"
BUILTIN_TYPES: tuple[str, ...] = (RBC, WBC, PLATELET)
"""Codes 1, 2 and 3 of the typed image; user classes follow in the order they were made."""

TYPE_COLOURS: dict[str, str] = {RBC: "#e0312f", WBC: "#2fb344", PLATELET: "#f5a524", UNIDENTIFIED: "#8a8f98"}
"""The one place where colours of types are kept (paper §3.5: RBC red, WBC green)."""
USER_COLOURS: tuple[str, ...] = ("#3b82f6", "#a855f7", "#14b8a6", "#ec4899", "#84cc16", "#f97316", "#6366f1", "#eab308")

COLUMNS: dict[str, str] = {
    "cell_type": "object",
    "probability": "float64",
    "type_source": "object",
    "area_px": "int64",
    "bbox": "object",
    "centroid": "object",
    "predicted_iou": "float64",
    "stability_score": "float64",
    "cells_in_region": "int64",
    "touches_edge": "bool",
    "proposed_type": "object",
    "proposed_probability": "float64",
}
"""Columns of the cell table with their dtypes. `bbox` holds (y0, x0, y1, x1), half-open, and `centroid` (y, x), both in
pixels. `type_source` is "model" or "user". `cells_in_region` is 1 until cells are counted.
`proposed_type` and `proposed_probability` are the mask generator's own opinion, "" and NaN where it has none."""


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


def type_lut(table: pd.DataFrame, names: Sequence[str], n_ids: int | None = None) -> NDArray[np.uint8]:
    """Return the lookup table label id → code of its type, (N + 1,) uint8; 0 for background and untyped cells."""
    size = int(max(table.index.max() if len(table) else 0, n_ids or 0)) + 1
    lut = np.zeros(size, np.uint8)
    codes = {name: i + 1 for i, name in enumerate(names)}
    lut[table.index.to_numpy(np.int64)] = table["cell_type"].map(codes).fillna(0).to_numpy(np.uint8)
    return lut


def measure_cells(
    cells: NDArray[np.integer],
    predicted_iou: NDArray[np.floating] | None = None,
    stability_score: NDArray[np.floating] | None = None,
) -> pd.DataFrame:
    """Return the cell table of a (Y, X) label image with ids 1..N; types are empty and regions count 1.

    `predicted_iou` and `stability_score` have shape (N,), in the order of the ids; NaN where they are not given.
    """
    boxes = ndimage.find_objects(cells)
    ids = np.array([i + 1 for i, b in enumerate(boxes) if b is not None], np.int64)
    areas, y_sum, x_sum = (np.zeros(len(boxes) + 1, np.int64) for _ in range(3))
    for i in ids:
        rows, columns = boxes[i - 1]
        own = cells[rows, columns] == i
        in_row, in_column = np.add.reduce(own, 1, np.intp), np.add.reduce(own, 0, np.intp)
        areas[i] = in_row.sum()
        y_sum[i] = in_row @ np.arange(rows.start, rows.stop)
        x_sum[i] = in_column @ np.arange(columns.start, columns.stop)
    height, width = cells.shape
    bbox = [(b[0].start, b[1].start, b[0].stop, b[1].stop) for b in (boxes[i - 1] for i in ids)]
    table = pd.DataFrame(
        {
            "cell_type": pd.Series([""] * len(ids), dtype=object),
            "probability": np.full(len(ids), np.nan),
            "type_source": pd.Series(["model"] * len(ids), dtype=object),
            "area_px": areas[ids],
            "bbox": pd.Series(bbox, dtype=object),
            "centroid": pd.Series(
                [(float(y_sum[i] / areas[i]), float(x_sum[i] / areas[i])) for i in ids], dtype=object
            ),
            "predicted_iou": np.full(len(ids), np.nan)
            if predicted_iou is None
            else np.asarray(predicted_iou, float)[ids - 1],
            "stability_score": np.full(len(ids), np.nan)
            if stability_score is None
            else np.asarray(stability_score, float)[ids - 1],
            "cells_in_region": np.ones(len(ids), np.int64),
            "touches_edge": np.array([b[0] == 0 or b[1] == 0 or b[2] == height or b[3] == width for b in bbox], bool),
            "proposed_type": pd.Series([""] * len(ids), dtype=object),
            "proposed_probability": np.full(len(ids), np.nan),
        }
    )
    table.index = pd.Index(ids, name="id")
    return table
