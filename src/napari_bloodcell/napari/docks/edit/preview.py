"""A cell that was found where somebody clicked, outlined before it is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from napari.components import ViewerModel
from napari.layers import Layer, Shapes

from napari_bloodcell.core.outlines import polygons_of
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.napari.docks.mouse import BAND_COLOUR, plane_placement_of
from napari_bloodcell.napari.layers.links import KEY

LINE_PX: Final = 2.0
"""Width of the outline, screen pixels."""


class Preview:
    """Shows the outline of a mask on a layer, whose keys do something else until it is closed.

    `keys` are names of napari's, such as "Enter", with what they do.
    """

    def __init__(
        self, viewer: ViewerModel, layer: Layer, mask: CellMask, keys: Mapping[str, Callable[[], object]]
    ) -> None:
        self._viewer, self._layer, self.bbox = viewer, layer, mask.bbox
        rings = [np.reshape(ring, (-1, 2))[:-1, ::-1] for piece in polygons_of(mask.mask) for ring in piece[:1]]
        self._outline = Shapes(
            [ring + mask.bbox[:2] - 0.5 for ring in rings],  # corners of pixels, whose middle is whole
            shape_type="polygon",
            edge_color=BAND_COLOUR,
            edge_width=LINE_PX / float(viewer.scene.camera.zoom * layer.scale[-1]),
            face_color="transparent",
            opacity=1.0,
            name="new cell?",
            metadata={KEY: {"kind": "band"}},
            **plane_placement_of(layer),
        )
        active = viewer.layers.selection.active
        viewer.add_layer(self._outline)
        viewer.layers.selection.active = active if active in viewer.layers else layer
        self._before: dict[str, Any] = {}
        for key, act in keys.items():
            self._before[key] = layer.bind_key(key, None)
            layer.bind_key(key, _key(act), overwrite=True)

    def holds(self, point: tuple[float, float]) -> bool:
        """Return whether a point (y, x), pixels of the layer, lies in the box of the mask."""
        y0, x0, y1, x1 = self.bbox
        return y0 <= point[0] < y1 and x0 <= point[1] < x1

    def close(self) -> None:
        """Take the outline away, and give the keys back."""
        for key, before in self._before.items():
            self._layer.bind_key(key, None)
            if before is not None:
                self._layer.bind_key(key, before, overwrite=True)
        self._before.clear()
        if self._outline in self._viewer.layers:
            self._viewer.layers.remove(self._outline)


def _key(act: Callable[[], object]) -> Callable[[Layer], None]:
    def pressed(_layer: Layer) -> None:  # napari needs a function with a name
        act()

    return pressed
