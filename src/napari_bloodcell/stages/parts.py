"""Cells of label images of any size, measured and typed part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_bloodcell.core.cells import BOX, boxes_of, join_measured, measure, table_of_measured
from napari_bloodcell.core.protocols import Progress
from napari_bloodcell.stages.classify import decide_types, iter_probabilities
from napari_bloodcell.stages.tiles import BLOCK_PX, iter_tiles

if TYPE_CHECKING:
    from collections.abc import Generator

    import pandas as pd

    from napari_bloodcell.core.params import ClassifyParams
    from napari_bloodcell.core.protocols import Calibration, CellClassifier


PART_PX = BLOCK_PX
"""Side of what is in memory at once, pixels; a cell that reaches out of it is read whole."""


def iter_measure(cells: Any) -> Generator[Progress, None, pd.DataFrame]:
    """Measure the cells of a label image of any size, as `cells.measure_cells` does those of one in memory.

    Parameters
    ----------
    cells : array-like of int, shape (Y, X)
        Ids, 0 background; sliced part by part.

    Yields
    ------
    Progress
        After each part.

    Returns
    -------
    DataFrame
        Their cell table, index = id, rising.
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


def iter_classify_parts(
    image: Any,
    cells: Any,
    table: pd.DataFrame,
    calibration: Calibration,
    *,
    params: ClassifyParams,
    classifier: CellClassifier,
) -> Generator[Progress, None, pd.DataFrame]:
    """Type cells of an image of any size, as `classify.classify` does those of one in memory.

    Parameters
    ----------
    image : array-like of uint8, shape (Y, X, 3)
        The smear; sliced part by part.
    cells : array-like of int, shape (Y, X)
        Ids.
    table : DataFrame
        Their cell table, index = id. Cells that a user typed stay as they are.
    calibration : Calibration
        What was measured of the smear.
    params : ClassifyParams
        Settings.
    classifier : CellClassifier
        The model.

    Yields
    ------
    Progress
        After each batch; payload = ids typed.

    Returns
    -------
    DataFrame
        The table with types.
    """
    table = table.copy()
    todo = table[table["type_source"] != "user"]
    boxes = boxes_of(todo)
    probabilities = np.zeros((len(todo), len(classifier.classes)), np.float32)
    done = 0
    yield Progress(0, len(todo), "cells typed")
    home = boxes[:, 0] // PART_PX * (cells.shape[1] // PART_PX + 1) + boxes[:, 1] // PART_PX
    order = np.argsort(home, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        if not len(rows):
            continue
        (y, x), (bottom, right) = boxes[rows, :2].min(0).tolist(), boxes[rows, 2:].max(0).tolist()
        here = todo.iloc[rows].copy()
        here[list(BOX)] = boxes[rows] - [y, x, y, x]
        window = (slice(y, bottom), slice(x, right))
        pixels, labels = np.asarray(image[window]), np.asarray(cells[window])
        at = 0
        said_of = iter_probabilities(
            pixels, labels, here, classifier, calibration, params.batch_size, corner=(int(y), int(x))
        )
        for ids, said in said_of:
            probabilities[rows[at : at + len(ids)]] = said
            at += len(ids)
            yield Progress(done + at, len(todo), "cells typed", ids)
        done += at
    decide_types(table, todo.index, probabilities, list(classifier.classes), params=params)
    return table
