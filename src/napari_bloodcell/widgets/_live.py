"""Cells on screen while they are found, and the layer they end in."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from napari_bloodcell.widgets import _layers as layers
from napari_bloodcell.widgets._cell_features import PLANE
from napari_bloodcell.widgets._images import image_source, plane_number
from napari_bloodcell.widgets._jobs import EarlierCells, FoundCells, FoundMasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from napari.components import ViewerModel
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from napari_bloodcell.params import Recipe
    from napari_bloodcell.protocols import CellMask

REFRESH_EVERY_S: Final = 0.35
"""How often tiles that are done are drawn, at most."""


class CellsWriter:
    """Writes what is found into the cells layer of an image, which it makes if there is none.

    Parameters
    ----------
    viewer : ViewerModel
        Where the layer is, or goes.
    image_layer : Image
        The smear.
    recipe : Recipe
        What is noted in the layer.

    Attributes
    ----------
    earlier : EarlierCells or None
        A copy of what the layer held before.
    """

    def __init__(self, viewer: ViewerModel, image_layer: Image, recipe: Recipe) -> None:
        self._viewer, self._image_layer, self._recipe = viewer, image_layer, recipe
        self._layer = layers.cells_layer_for(viewer, image_layer)
        self._shape = image_source(image_layer).shape
        if self._layer is not None and layers.full_resolution(self._layer).shape != self._shape:
            self._layer = None  # the image was exchanged for another one
        self.earlier: EarlierCells | None = None
        table = layers.known_table_of(self._layer) if self._layer is not None else None
        if self._layer is not None and table is not None:
            self.earlier = EarlierCells(layers.full_resolution(self._layer).copy(), table)
        self._was_there = self._layer is not None
        self._next_id = int(self.earlier.cells.max(initial=0)) + 1 if self.earlier is not None else 1
        self._drawn_at = 0.0

    @property
    def layer(self) -> Labels:
        """The cells layer."""
        if self._layer is None:
            self._layer = layers.add_cells(self._viewer, self._image_layer)
        return self._layer

    @property
    def is_gone(self) -> bool:
        """Whether the user deleted the layer meanwhile."""
        return self._layer is not None and self._layer not in self._viewer.layers

    def show(self, found: FoundMasks) -> None:
        """Paint the masks of a tile; they are drawn a few times a second."""
        plane = layers.full_resolution(self.layer)[found.index]
        for mask in found.masks:
            _paint(plane, mask, self._next_id)
            self._next_id += 1
        if time.monotonic() - self._drawn_at > REFRESH_EVERY_S:
            layers.refresh_cells(self.layer)
            self._drawn_at = time.monotonic()

    def store(self, found: FoundCells) -> None:
        """Put the cells of a plane, as they are in the end, into the layer with their table."""
        layer = self.layer
        layers.full_resolution(layer)[found.index] = found.cells
        layers.note_segmentation(layer, found.segmentation, self._recipe, image_sha256=found.image_sha256)
        layers.set_table(layer, self._whole_table(layer, found))
        layers.refresh_cells(layer)

    def finish(self, found: Sequence[FoundCells]) -> Labels:
        """Store all planes and return the layer."""
        for plane in found:
            self.store(plane)
        return self.layer

    def undo(self) -> None:
        """Leave the layer as it was before, as after an error."""
        if self._layer is None or self.is_gone:
            return
        if self.earlier is not None:
            layers.full_resolution(self._layer)[...] = self.earlier.cells
            layers.set_table(self._layer, self.earlier.table)
            layers.refresh_cells(self._layer)
        elif not self._was_there:
            self._viewer.layers.remove(self._layer)

    def _whole_table(self, layer: Labels, found: FoundCells) -> pd.DataFrame:
        """Return the rows of this plane with those of the others."""
        import pandas as pd

        stack_shape = self._shape[:-2]
        known = layers.known_table_of(layer) if stack_shape else None
        if known is None or PLANE not in known.columns:
            return found.table
        others = known[known[PLANE] != plane_number(found.index, stack_shape)]
        return pd.concat([others, found.table]) if len(others) else found.table


def _paint(plane: NDArray[np.int32], mask: CellMask, label: int) -> None:
    """Paint a mask where it lies on the plane."""
    y0, x0, y1, x1 = mask.bbox
    top, left = max(0, -y0), max(0, -x0)
    bottom, right = min(y1, plane.shape[0]) - y0, min(x1, plane.shape[1]) - x0
    if bottom > top and right > left:
        plane[y0 + top : y0 + bottom, x0 + left : x0 + right][mask.mask[top:bottom, left:right]] = label
