"""The cells that are selected, outlined in the viewer by a layer of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap

from napari_bloodcell.napari.layers.cells import KEY, full_resolution, info_of, placement_of
from napari_bloodcell.napari.layers.types import TypedView, TypeLookup

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.components import ViewerModel
    from numpy.typing import NDArray

COLOUR: Final = "#ffd83d"
"""Of the outlines: in no type's colours, and seen on stain and on glass."""
OUTLINE_PX: Final = 3
_LOOKUP: Final = "napari_bloodcell_selected"


def select_cells(
    viewer: ViewerModel, cells_layer: Labels, ids: Sequence[int] | NDArray[np.integer[Any]]
) -> Labels | None:
    """Outline these cells in a layer `"<image> selected cells"`, which is made, changed, or removed for no cells.

    Constant time, however many cells there are: the layer is a lookup table over the label image.
    """
    layer = _layer_for(viewer, cells_layer)
    wanted = np.asarray(ids, np.int64)
    if not wanted.size:
        if layer is not None:
            viewer.layers.remove(layer)
        return None
    codes = np.zeros(int(wanted.max()) + 1, np.uint8)
    codes[wanted] = 1
    if layer is not None:
        layer.metadata[_LOOKUP].replace(codes)
        return layer
    return _add_layer(viewer, cells_layer, TypeLookup(codes))


def selected_cells(viewer: ViewerModel, cells_layer: Labels) -> NDArray[np.int64]:
    """Return the ids of the selected cells, rising."""
    layer = _layer_for(viewer, cells_layer)
    return np.flatnonzero(layer.metadata[_LOOKUP].codes) if layer is not None else np.empty(0, np.int64)


def toggle_cell(viewer: ViewerModel, cells_layer: Labels, cell: int) -> None:
    """Add a cell to the selection, or take it out."""
    select_cells(viewer, cells_layer, np.setxor1d(selected_cells(viewer, cells_layer), [cell]))


def _layer_for(viewer: ViewerModel, cells_layer: Labels) -> Labels | None:
    for layer in viewer.layers:
        info = info_of(layer)
        if info.get("kind") == "selected" and info.get("cells_id") == str(cells_layer.unique_id):
            return layer if isinstance(layer, Labels) else None
    return None


def _add_layer(viewer: ViewerModel, cells_layer: Labels, lookup: TypeLookup) -> Labels:
    levels: list[Any] = [TypedView(cells_layer, lookup, i) for i in range(_n_levels(cells_layer))]
    layer = Labels(
        levels if cells_layer.multiscale else levels[0],
        name=f"{info_of(cells_layer).get('image') or cells_layer.name} selected cells",
        colormap=DirectLabelColormap(color_dict={None: "transparent", 0: "transparent", 1: COLOUR}),
        metadata={
            KEY: {"kind": "selected", "cells_id": str(cells_layer.unique_id)},
            _LOOKUP: lookup,
        },
        opacity=1.0,
        **placement_of(cells_layer),
    )
    layer.contour = OUTLINE_PX if min(full_resolution(cells_layer).shape[-2:]) > 1500 else 2
    layer.editable = False
    lookup.show_in(layer)
    active = viewer.layers.selection.active
    viewer.add_layer(layer)
    viewer.layers.selection.active = active
    return layer


def _n_levels(layer: Labels) -> int:
    return len(layer.data) if layer.multiscale else 1
