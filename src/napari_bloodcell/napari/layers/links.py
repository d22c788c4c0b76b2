"""Links between layers, and what their metadata holds: kind, table, class names, calibration."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from numpy.typing import NDArray

from napari_bloodcell.core.cells import kind_names, type_names
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import Params
from napari_bloodcell.core.protocols import Calibration
from napari_bloodcell.napari.layers.features import is_table, to_table
from napari_bloodcell.stages.calibration import DEFAULT_DIAMETER_PX

KEY: Final = "napari_bloodcell"
"""Metadata key of everything that the plugin stores in a layer."""


def info_of(layer: Layer | None) -> dict[str, Any]:
    """Return the plugin's metadata of a layer (kind, image, recipe, models, …); empty for a foreign layer."""
    found = layer.metadata.get(KEY) if layer is not None else None
    return found if isinstance(found, dict) else {}


def note_settings(cells_layer: Labels, stage: str, params: Params) -> None:
    """Store the settings of a stage in the recipe of a cells layer."""
    info = info_of(cells_layer)
    info["recipe"] = {**(info.get("recipe") or {}), stage: params.model_dump(mode="json")}


def is_cells(layer: Layer | None) -> bool:
    """Return whether this is a cells layer."""
    return isinstance(layer, Labels) and info_of(layer).get("kind") == "cells"


def is_types(layer: Layer | None) -> bool:
    """Return whether this is a types layer."""
    return isinstance(layer, Labels) and info_of(layer).get("kind") == "types"


def table_of(cells_layer: Labels, columns: Collection[str] | None = None) -> pd.DataFrame:
    """Return the cell table of a cells layer, index = id; only some columns if named, which is faster.

    Raises `InputError` if the layer has no table.
    """
    return to_table(cells_layer.features, columns)


def names_of(cells_layer: Labels) -> list[str]:
    """Return the class names of a cells layer; a class's code is its position plus 1."""
    return list(info_of(cells_layer).get("names") or type_names())


def kinds_of(cells_layer: Labels) -> list[str]:
    """Return the full names of the kinds of all types ("WBC: neutrophil"), those of the user last."""
    return list(info_of(cells_layer).get("kinds") or kind_names())


def is_by_kind(cells_layer: Labels) -> bool:
    """Return whether cells have the colours of their kinds."""
    return bool(info_of(cells_layer).get("by_kind"))


def colours_of(cells_layer: Labels) -> dict[str, str]:
    """Return the colours chosen for this layer, "#rrggbb" by class name; other classes have their default."""
    return dict(info_of(cells_layer).get("colours") or {})


def calibration_of(cells_layer: Labels) -> Calibration:
    """Return the calibration of the smear, or the default if it is unknown."""
    record = info_of(cells_layer).get("calibration")
    if not isinstance(record, dict):
        return Calibration(DEFAULT_DIAMETER_PX, (255.0, 255.0, 255.0), 255.0, "default")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    return Calibration(**values)


def warnings_of(cells_layer: Labels) -> tuple[str, ...]:
    """Return the warnings about the cells of a layer, as sentences."""
    return tuple(map(str, info_of(cells_layer).get("warnings") or ()))


def has_table(cells_layer: Labels) -> bool:
    """Return whether a layer has a cell table; layers of other programs do not."""
    return is_table(cells_layer.features)


def known_table_of(cells_layer: Labels) -> pd.DataFrame | None:
    """Return the cell table of a layer, or None if it has none."""
    return table_of(cells_layer) if has_table(cells_layer) else None


def known_calibration_of(cells_layer: Labels) -> Calibration | None:
    """Return the calibration of the smear, or None if it is unknown."""
    return calibration_of(cells_layer) if "calibration" in info_of(cells_layer) else None


def cells_layer_for(viewer: ViewerModel, image_layer: Layer | None) -> Labels | None:
    """Return the cells layer of an image layer, the topmost if there are several, or None."""
    return _linked(viewer, image_layer, "cells", "image")


def types_layer_for(viewer: ViewerModel, cells_layer: Layer | None) -> Labels | None:
    """Return the types layer of a cells layer, or None."""
    return _linked(viewer, cells_layer, "types", "cells")


def image_layer_for(viewer: ViewerModel, cells_layer: Layer | None) -> Image | None:
    """Return the image layer that the cells were found in, or None if it is gone."""
    info = info_of(cells_layer)
    images = [layer for layer in viewer.layers if isinstance(layer, Image)]
    by_id = [layer for layer in images if str(layer.unique_id) == info.get("image_id")]
    by_name = [layer for layer in images if layer.name == info.get("image")]
    return next(iter([*by_id, *by_name]), None)


def full_resolution(layer: Labels) -> NDArray[np.int32]:
    """Return the writable label image, (..., Y, X); the pyramid levels that `add_cells` makes are views of it."""
    return cast("NDArray[np.int32]", levels_of(layer)[0])


def levels_of(layer: Labels | Image) -> list[Any]:
    """Return the levels of a layer's data, the finest first."""
    return list(layer.data) if layer.multiscale else [layer.data]


def _linked(viewer: ViewerModel, layer: Layer | None, kind: str, link: str) -> Labels | None:
    """Return the layer of this kind that refers to `layer`, by id or, if it was read from a file, by name."""
    if layer is None:
        return None
    candidates = [
        one for one in reversed(viewer.layers) if isinstance(one, Labels) and info_of(one).get("kind") == kind
    ]
    by_id = [one for one in candidates if info_of(one).get(f"{link}_id") == str(layer.unique_id)]
    ids = {str(one.unique_id) for one in viewer.layers}
    by_name = [
        one for one in candidates if info_of(one).get(link) == layer.name and info_of(one).get(f"{link}_id") not in ids
    ]
    return next(iter([*by_id, *by_name]), None)


def viewer_of(layer: Layer, viewer: ViewerModel | None) -> ViewerModel:
    """Return `viewer`, or if it is None the viewer that listens to the layer's events."""
    if viewer is not None:
        return viewer
    from napari.components import ViewerModel as NapariViewerModel

    for callback in layer.events.data.callbacks:
        owner = callback[0]() if isinstance(callback, tuple) else None
        if isinstance(owner, NapariViewerModel) and layer in owner.layers:
            return owner
    raise InputError(f"The layer {layer.name!r} is in no viewer. Add it to one, or give viewer=…")
