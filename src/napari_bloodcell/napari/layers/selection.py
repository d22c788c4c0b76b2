"""Selected and highlighted cells, outlined by a layer of their own.

Selected cells are what the next key acts on; a walk or a click into a histogram only points cells out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from napari_bloodcell.napari.layers.links import KEY, info_of, levels_of
from napari_bloodcell.napari.layers.look import placement_of
from napari_bloodcell.napari.layers.types import TypedView, TypeLookup

Ids = Sequence[int] | NDArray[np.integer[Any]]

COLOUR: Final = "#ffd83d"
"""Colour of selected cells: unlike all types, visible on stain and on glass."""
POINTED_COLOUR: Final = "#22d3ee"
"""Colour of cells that are pointed out."""
_SELECTED, _POINTED = 1, 2  # bits of a code
_LOOKUP: Final = "napari_bloodcell_selected"


class RingView(TypedView):
    """One level of the layer of marked cells: a ring around each, outside of it, so that the cell itself is seen."""

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        codes = super().__getitem__(key)
        return ring_around(codes, width=3 if min(self.shape[-2:]) > 1500 else 2) if codes.ndim >= 2 else codes


def ring_around(codes: NDArray[np.uint8], *, width: int) -> NDArray[np.uint8]:
    """Return codes (…, Y, X) moved from regions to the `width` pixels around them."""
    ring = np.zeros_like(codes)
    axes = range(codes.ndim)
    places = [np.flatnonzero(codes.any(axis=tuple(a for a in axes if a != axis))) for axis in axes[-2:]]
    if not all(map(len, places)):
        return ring
    (y0, y1), (x0, x1) = ((max(int(p[0]) - width, 0), int(p[-1]) + width + 1) for p in places)
    part = codes[..., y0:y1, x0:x1]
    side = 2 * width + 1
    grown = maximum_filter(part, size=(1,) * (codes.ndim - 2) + (side, side), mode="constant")
    ring[..., y0:y1, x0:x1] = np.where(part == 0, grown, 0)
    return ring


def select_cells(viewer: ViewerModel, cells_layer: Labels, ids: Ids) -> Labels | None:
    """Select exactly these cells; return the layer that outlines them, or None if nothing is outlined."""
    return _mark(viewer, cells_layer, ids, _SELECTED)


def point_out(viewer: ViewerModel, cells_layer: Labels, ids: Ids) -> Labels | None:
    """Outline these cells without selecting them."""
    return _mark(viewer, cells_layer, ids, _POINTED)


def selected_cells(viewer: ViewerModel, cells_layer: Labels) -> NDArray[np.int64]:
    """Return the sorted ids of the selected cells."""
    return _marked(viewer, cells_layer, _SELECTED)


def pointed_out(viewer: ViewerModel, cells_layer: Labels) -> NDArray[np.int64]:
    """Return the sorted ids of the cells that are pointed out."""
    return _marked(viewer, cells_layer, _POINTED)


def _marked(viewer: ViewerModel, cells_layer: Labels, bit: int) -> NDArray[np.int64]:
    layer = _layer_for(viewer, cells_layer)
    return np.flatnonzero(layer.metadata[_LOOKUP].codes & bit) if layer is not None else np.empty(0, np.int64)


def _mark(viewer: ViewerModel, cells_layer: Labels, ids: Ids, bit: int) -> Labels | None:
    """Mark exactly these cells, in constant time, through a lookup table over the label image."""
    layer = _layer_for(viewer, cells_layer)
    wanted = np.asarray(ids, np.int64)
    codes = layer.metadata[_LOOKUP].codes[:-1] & ~np.uint8(bit) if layer is not None else np.zeros(1, np.uint8)
    codes = np.pad(codes, (0, max(int(wanted.max(initial=0)) + 1 - len(codes), 0)))
    codes[wanted] |= np.uint8(bit)
    if not codes.any():
        if layer is not None:
            viewer.layers.remove(layer)
        return None
    if layer is None:
        return _add_layer(viewer, cells_layer, TypeLookup(codes))
    layer.metadata[_LOOKUP].replace(codes)
    return layer


def _layer_for(viewer: ViewerModel, cells_layer: Labels) -> Labels | None:
    for layer in viewer.layers:
        info = info_of(layer)
        if info.get("kind") == "selected" and info.get("cells_id") == str(cells_layer.unique_id):
            return layer if isinstance(layer, Labels) else None
    return None


def _add_layer(viewer: ViewerModel, cells_layer: Labels, lookup: TypeLookup) -> Labels:
    levels: list[Any] = [RingView(cells_layer, lookup, i) for i in range(len(levels_of(cells_layer)))]
    colours = {None: "transparent", 0: "transparent", 1: COLOUR, 2: POINTED_COLOUR, 3: COLOUR}
    layer = Labels(
        levels if cells_layer.multiscale else levels[0],
        name=f"{info_of(cells_layer).get('image') or cells_layer.name} selected cells",
        colormap=DirectLabelColormap(color_dict=colours),
        metadata={KEY: {"kind": "selected", "cells_id": str(cells_layer.unique_id)}, _LOOKUP: lookup},
        opacity=1.0,
        **placement_of(cells_layer),
    )
    layer.editable = False
    lookup.show_in(layer)
    active = viewer.layers.selection.active
    viewer.add_layer(layer)
    viewer.layers.selection.active = active
    return layer
