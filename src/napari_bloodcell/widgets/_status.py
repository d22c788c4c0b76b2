"""What the status bar says of the cell under the mouse."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels

from napari_bloodcell.widgets._cell_features import rows_of

if TYPE_CHECKING:
    from collections.abc import Sequence


def cell_at(cells_layer: Labels, position: Sequence[float]) -> int:
    """Return the id of the cell at a position in the world, exactly, at any zoom; 0 where there is none."""
    ids = cells_layer.data[0] if cells_layer.multiscale else cells_layer.data
    pixel = np.round(np.asarray(cells_layer.world_to_data(np.asarray(position)))).astype(int)[-len(ids.shape) :]
    if len(pixel) != len(ids.shape) or np.any(pixel < 0) or np.any(pixel >= ids.shape):
        return 0
    return int(np.asarray(ids[tuple(pixel)]))


def describe_cell(cells_layer: Labels, cell: int) -> str:
    """Return "cell 12: RBC, 98 %", as far as it is known; "" for the background."""
    if not cell:
        return ""
    features = cells_layer.features
    rows = rows_of(features, [cell]) if "index" in features.columns else np.empty(0, np.intp)
    if not rows.size or "cell_type" not in features.columns:
        return f"cell {cell}"
    name, probability = features["cell_type"].iat[rows[0]], features["probability"].iat[rows[0]]
    if not name:
        return f"cell {cell}: no type yet"
    by_hand = features["type_source"].iat[rows[0]] == "user" if "type_source" in features.columns else False
    sure = "set by hand" if by_hand else f"{100 * probability:.1f} %"
    return f"cell {cell}: {name}, {sure}"


def cell_status(layer: Labels, cells_layer: Labels, position: Any = None, **options: Any) -> dict[str, Any]:
    """Do as ``Labels.get_status`` of `layer`, telling of the cell instead of every column of its table."""
    status: dict[str, Any] = super(Labels, layer).get_status(position, **options)
    if position is None:
        return status
    told = describe_cell(cells_layer, cell_at(cells_layer, position))
    place = ", ".join(f"{round(float(p))}" for p in layer.world_to_data(np.asarray(position)))
    status["value"] = f": {told}" if told else ""
    status["coordinates"] = f" [{place}]: {told}" if told else f" [{place}]"
    return status


def show_status_of(layer: Labels, cells_layer: Labels) -> None:
    """Let the status bar tell id, type and probability of the cell under the mouse."""
    layer.__dict__["get_status"] = partial(cell_status, layer, cells_layer)
