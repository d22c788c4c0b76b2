"""Shows cells while they are found, and stores them in their layer at the end."""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Image, Labels
from numpy.typing import NDArray

from napari_bloodcell.core.geometry import Box, shared_box, slices_of
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.core.protocols import CellMask
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.drawing import redraw_boxes
from napari_bloodcell.napari.layers.features import PLANE
from napari_bloodcell.napari.layers.images import image_source, plane_number
from napari_bloodcell.napari.layers.private import drawn_of
from napari_bloodcell.napari.session.changes import Snapshot
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.work.jobs import EarlierCells, FoundCells, FoundMasks

REFRESH_EVERY_S: Final = 0.25
"""Finished tiles are drawn at most this often."""
TABLE_SHARE: Final = 0.05
"""Largest share of the time spent on the table of a stack, which grows with every plane."""


class CellsWriter:
    """Writes found cells into the cells layer of an image, which is created if needed.

    `earlier` is a copy of the layer before, None if it was empty; `kept` are cells outlined by a person, which stay.
    """

    def __init__(self, viewer: ViewerModel, image_layer: Image, recipe: Recipe, *, keeps_by_hand: bool = True) -> None:
        self._viewer, self._image_layer, self._recipe = viewer, image_layer, recipe
        self._layer = links.cells_layer_for(viewer, image_layer)
        self._shape = image_source(image_layer).shape
        if self._layer is not None and links.full_resolution(self._layer).shape != self._shape:
            self._layer = None  # the image was exchanged for another one
        self.earlier: EarlierCells | None = None
        self.kept: frozenset[int] = frozenset()
        self._before: Snapshot | None = None
        if self._layer is not None and links.has_table(self._layer):
            before = self._before = cells_session(viewer, self._layer).snapshot(with_cells=True)
            if before.cells is not None:
                self.earlier = EarlierCells(before.cells, before.features)
            if keeps_by_hand:
                self.kept = before.by_hand
        self._was_there = self._layer is not None
        self._is_to_be_shown = False
        self._next_id = int(self.earlier.cells.max(initial=0)) + 1 if self.earlier is not None else 1
        self._drawn_at = 0.0
        self._painted: list[Box] = []
        self._waiting: dict[int, pd.DataFrame] = {}
        self._warnings: dict[str, None] = {}
        self._table_due = 0.0

    @property
    def layer(self) -> Labels:
        """The cells layer."""
        if self._layer is None:
            self._layer = layers.add_cells(self._viewer, self._image_layer, visible=False)
            cells_session(self._viewer, self._layer)  # records every stroke from now on
            self._is_to_be_shown = True
        return self._layer

    @property
    def is_gone(self) -> bool:
        """Whether the user has deleted the layer."""
        return self._layer is not None and self._layer not in self._viewer.layers

    def show(self, found: FoundMasks) -> None:
        """Paint the masks of a tile; they are drawn a few times a second."""
        plane = links.full_resolution(self.layer)[found.index]
        for mask in found.masks:
            _paint(plane, mask, self._next_id)
            self._next_id += 1
            self._painted.append(mask.bbox)
        if self._painted and time.monotonic() - self._drawn_at > REFRESH_EVERY_S:
            if not self._reveal() and not self._draw(plane):
                layers.refresh_cells(self.layer)
            self._painted.clear()
            self._drawn_at = time.monotonic()

    def store(self, found: FoundCells) -> None:
        """Store the final cells of a plane, with their table."""
        layer = self.layer
        links.full_resolution(layer)[found.index] = found.cells
        layers.note_segmentation(layer, found.segmentation, self._recipe, image_sha256=found.image_sha256)
        self._warnings |= dict.fromkeys(found.segmentation.warnings)
        links.info_of(layer)["warnings"] = list(self._warnings)  # of all planes
        self._waiting[plane_number(found.index, self._shape[:-2])] = found.table
        if time.monotonic() >= self._table_due:
            self.write_table()
        if not self._reveal():
            layers.refresh_cells(layer)

    def lock(self, *, is_on: bool) -> None:
        """Lock the cells against other changes, or unlock them."""
        if not self.is_gone:
            cells_session(self._viewer, self.layer).busy = "found" if is_on else ""

    def write_table(self) -> None:
        """Store the rows of finished planes in the layer's table."""
        if not self._waiting:
            return
        start = time.monotonic()
        layers.set_table(self.layer, self._whole_table(self.layer))
        self._waiting.clear()
        if len(self._shape) > 2:
            now = time.monotonic()
            self._table_due = now + (now - start) / TABLE_SHARE

    def finish(self) -> None:
        """Store the rest, and record the run as one undo step if there were cells before."""
        self.write_table()
        if self._before is not None:
            cells_session(self._viewer, self.layer).remember_run("found cells again", self._before, self.kept)

    def undo(self) -> None:
        """Restore the layer as it was before, as after an error."""
        if self._layer is None or self.is_gone:
            return
        if self.earlier is not None:
            links.full_resolution(self._layer)[...] = self.earlier.cells
            layers.set_table(self._layer, self.earlier.table)
            layers.refresh_cells(self._layer)
        elif not self._was_there:
            self._viewer.layers.remove(self._layer)

    def _draw(self, plane: NDArray[np.int32]) -> bool:
        """Draw what was painted since the last time, and return whether that was possible.

        Redrawing the whole layer takes long. If napari shows another plane or level, the view must be read again.
        """
        drawn = drawn_of(self.layer)
        if drawn is None or self.layer.multiscale or drawn.labels.shape != plane.shape:
            return False
        if np.may_share_memory(drawn.labels, plane):  # else another plane is in view
            redraw_boxes(self.layer, np.array(self._painted, np.int64))
        return True

    def _reveal(self) -> bool:
        """Show the layer once there is something to see; return whether that was now.

        Adding and drawing it in one step would stop the window for too long.
        """
        is_now, self._is_to_be_shown = self._is_to_be_shown, False
        if is_now:
            self.layer.visible = True
        return is_now

    def _whole_table(self, layer: Labels) -> pd.DataFrame:
        """Return the rows of finished planes with those of the others."""
        import pandas as pd

        found = list(self._waiting.values())
        known = links.known_table_of(layer) if len(self._shape) > 2 else None
        if known is not None and PLANE in known.columns:
            others = known[~known[PLANE].isin(self._waiting)]
            found = [others, *found] if len(others) else found
        return pd.concat(found) if len(found) > 1 else found[0]


def _paint(plane: NDArray[np.int32], mask: CellMask, label: int) -> None:
    """Paint the part of a mask that lies on the plane."""
    box = shared_box(mask.bbox, (0, 0, *plane.shape))
    if box is not None:
        plane[slices_of(box)][mask.mask[slices_of(box, mask.bbox[:2])]] = label
