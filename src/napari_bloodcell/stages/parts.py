"""Cells of label images of any size, measured and typed part by part."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pandas as pd

from napari_bloodcell.core.cells import join_measured, measure, table_of_measured
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.stages.tiles import BLOCK_PX, iter_tiles

PART_PX = BLOCK_PX
"""Side of what is in memory at once, pixels; a cell that reaches out of it is read whole."""


def iter_measure(cells: Any) -> Generator[Progress, None, pd.DataFrame]:
    """Measure the cells of a label image of any size, as `cells.measure_cells` does those of one in memory.

    Parameters
    ----------
    cells : array-like of int, shape (Y, X)
        Ids, 0 background; sliced part by part.
    """
    parts = [tile.core for tile in iter_tiles(cells.shape, PART_PX)]
    found: list[pd.DataFrame] = []
    for done, (y, x, bottom, right) in enumerate(parts, start=1):
        labels = np.asarray(cells[y:bottom, x:right])
        ids = np.unique(labels[labels > 0])
        dense = np.where(labels > 0, np.searchsorted(ids, labels) + 1, 0).astype(np.int32)
        found.append(measure(dense, (y, x)).set_axis(ids.astype(np.int64)))
        yield Progress(done, len(parts), "parts measured")
    return table_of_measured(join_measured(found), cells.shape)
