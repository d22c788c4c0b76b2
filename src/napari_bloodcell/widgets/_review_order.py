"""In which order cells are looked at; no Qt, and quick for a million cells."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from napari_bloodcell.widgets._cell_features import INDEX, PLANE, by_hand

if TYPE_CHECKING:
    from collections.abc import Collection

    import pandas as pd
    from numpy.typing import NDArray

ROW_PX: Final = 512
"""From top to bottom means in rows of this height, each from left to right, so that the view moves little."""


class Order(StrEnum):
    """Which cell comes first."""

    LEAST_CERTAIN = "Least certain first"
    LARGEST = "Largest area first"
    READING = "From top to bottom"
    NOT_LOOKED_AT = "Not yet looked at"


def ordered_cells(
    features: pd.DataFrame, order: Order, *, cell_type: str | None = None, looked_at: Collection[int] = ()
) -> NDArray[np.int64]:
    """Return the ids of cells in an order.

    Parameters
    ----------
    features : DataFrame
        Of a cells layer.
    order : Order
        `LEAST_CERTAIN` leaves out what a person typed; `NOT_LOOKED_AT` also what is in `looked_at`.
    cell_type : str, optional
        Only cells of this type.
    looked_at : collection of int
        Ids.
    """
    if INDEX not in features.columns or "cell_type" not in features.columns:
        return np.empty(0, np.int64)
    ids = features[INDEX].to_numpy(np.int64)
    wanted = ids != 0
    if cell_type is not None:
        wanted &= (features["cell_type"] == cell_type).to_numpy(bool)
    if order in (Order.LEAST_CERTAIN, Order.NOT_LOOKED_AT):
        wanted &= ~by_hand(features)
    if order is Order.NOT_LOOKED_AT and looked_at:
        wanted &= ~np.isin(ids, np.fromiter(looked_at, np.int64, len(looked_at)))
    rows = np.flatnonzero(wanted)
    return ids[rows[_rank(features, rows, order)]]


def _rank(features: pd.DataFrame, rows: NDArray[np.intp], order: Order) -> NDArray[np.intp]:
    """Return how to sort these rows; ties go by id."""
    if order is Order.LEAST_CERTAIN:
        return np.argsort(features["probability"].to_numpy(np.float64)[rows], kind="stable")
    if order is Order.LARGEST:
        return np.argsort(-features["area_px"].to_numpy(np.float64)[rows], kind="stable")
    if "centroid_y" not in features.columns:
        return np.arange(len(rows))
    y, x = (features[f"centroid_{axis}"].to_numpy(np.float64)[rows] for axis in "yx")
    plane = features[PLANE].to_numpy(np.int64)[rows] if PLANE in features.columns else np.zeros(len(rows), np.int64)
    return np.lexsort((x, y // ROW_PX, plane))


def cells_in_box(
    features: pd.DataFrame, box: tuple[float, float, float, float], *, plane: int | None = None
) -> NDArray[np.int64]:
    """Return the ids of the cells whose centre lies in a box (y0, x0, y1, x1), pixels, of one plane of a stack."""
    if "centroid_y" not in features.columns:
        return np.empty(0, np.int64)
    y, x = (features[f"centroid_{axis}"].to_numpy(np.float64) for axis in "yx")
    inside = (y >= box[0]) & (y < box[2]) & (x >= box[1]) & (x < box[3])
    if plane is not None and PLANE in features.columns:
        inside &= features[PLANE].to_numpy() == plane
    ids = features[INDEX].to_numpy(np.int64)
    return np.asarray(ids[inside & (ids != 0)], np.int64)


class Tour:
    """A way through the cells, forth and back, that begins again after the last one."""

    def __init__(self) -> None:
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self.position = -1

    def __len__(self) -> int:
        return len(self.ids)

    def start(self, ids: NDArray[np.int64]) -> None:
        """Take another way, and stand before its first cell."""
        self.ids, self.position = ids, -1

    def clear(self) -> None:
        """Forget the way: another one is wanted."""
        self.start(np.empty(0, np.int64))

    def step(self, by: int) -> int:
        """Go on (1) or back (−1) and return the id of the cell; 0 where there is none."""
        if not len(self.ids):
            return 0
        self.position = (max(self.position, 0 if by < 0 else -1) + by) % len(self.ids)
        return int(self.ids[self.position])
