"""Cells of label images of any size, measured and typed part by part."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_bloodcell.core.cells import boxes_of, join_measured, measure, table_of_measured
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.stages.tiles import BLOCK_PX, iter_tiles

PART_PX = BLOCK_PX
"""Side of the part held in memory at once, pixels; a cell that reaches out of it is read whole."""


def iter_parts(
    table: pd.DataFrame, shape: tuple[int, ...], part_px: int | None
) -> Iterator[tuple[NDArray[np.intp], Box]]:
    """Yield the rows of cells that begin in the same square of `part_px` pixels, and the box that holds these cells.

    None: all rows and the whole image of `shape` (Y, X).
    """
    if part_px is None:
        yield np.arange(len(table)), (0, 0, shape[0], shape[1])
        return
    boxes = boxes_of(table)
    home = boxes[:, 0] // part_px * (shape[1] // part_px + 1) + boxes[:, 1] // part_px
    order = np.argsort(home, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        if len(rows):
            (y0, x0), (y1, x1) = boxes[rows, :2].min(0).tolist(), boxes[rows, 2:].max(0).tolist()
            yield rows, (y0, x0, y1, x1)


def iter_measure(cells: Any) -> Generator[Progress, None, pd.DataFrame]:
    """Measure the cells of a label image (Y, X) of any size, slice by slice, as `measure_cells` does in memory."""
    parts = [tile.core for tile in iter_tiles(cells.shape, PART_PX)]
    found: list[pd.DataFrame] = []
    for done, (y, x, bottom, right) in enumerate(parts, start=1):
        labels = np.asarray(cells[y:bottom, x:right])
        ids = np.unique(labels[labels > 0])
        dense = np.where(labels > 0, np.searchsorted(ids, labels) + 1, 0).astype(np.int32)
        found.append(measure(dense, (y, x)).set_axis(ids.astype(np.int64)))
        yield Progress(done, len(parts), "parts measured")
    return table_of_measured(join_measured(found), cells.shape)
