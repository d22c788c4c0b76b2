"""The scale of a smear as a circle on it, as wide as a red cell is taken to be, which one can drag."""

from __future__ import annotations

from typing import Final
from weakref import ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QPushButton

from napari_bloodcell.core.cells import CENTROID
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.docks.mouse import BAND_COLOUR, plane_placement_of
from napari_bloodcell.napari.layers.images import image_source, visible_box
from napari_bloodcell.napari.layers.links import KEY, cells_layer_for, has_table, known_calibration_of, table_of
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.notify import connect_for_life, notify_errors
from napari_bloodcell.stages.calibration import DEFAULT_DIAMETER_PX

LINE_PX: Final = 2.0
"""Width of the circle's line, screen pixels."""
SMALLEST_PX: Final = 4.0
"""A circle dragged to less than this becomes as wide as this, image pixels."""


class ScaleButton(QPushButton):
    """Shows the circle of an image, and takes it away."""

    dragged = Signal(float)
    """The circle's new width, image pixels."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("Check the scale")
        self.setToolTip(
            "Shows a circle as wide as a red cell is taken to be. Move it onto one, drag its corners until it fits, "
            "and find the cells again"
        )
        self.setCheckable(True)
        self._viewer = viewer
        self._find: ref[Image] | None = None
        self.circle: Shapes | None = None
        self._diameter_px = 0.0
        self.toggled.connect(self._on_toggled)
        connect_for_life(viewer.layers.events.removed, self._on_removed)

    def follow(self, image_layer: Image | None) -> None:
        """Switch to another image; its circle is not shown yet."""
        if image_layer is not (self._find() if self._find is not None else None):
            self.setChecked(False)
        self._find = None if image_layer is None else ref(image_layer)
        self.setEnabled(image_layer is not None)

    def show_circle(self, diameter_px: float | None = None) -> None:
        """Show the circle, as wide as red cells were found to be, or as given."""
        image = self._find() if self._find is not None else None
        if image is None:
            raise InputError("There is no image. Open a smear first.")
        cells = cells_layer_for(self._viewer, image)
        known = known_calibration_of(cells) if cells is not None else None
        self._diameter_px = diameter_px or (known.rbc_diameter_px if known is not None else DEFAULT_DIAMETER_PX)
        self.circle = Shapes(
            [_corners(_typical_place(self._viewer, image, self._diameter_px), self._diameter_px)],
            shape_type="ellipse",
            edge_color=BAND_COLOUR,
            edge_width=LINE_PX / float(camera_of(self._viewer).zoom * image.scale[-1]),
            face_color="transparent",
            opacity=1.0,
            name="width of a red cell",
            metadata={KEY: {"kind": "scale"}},
            **plane_placement_of(image),
        )
        self._viewer.add_layer(self.circle)
        self._viewer.layers.selection.active = self.circle
        self.circle.mode = "select"
        self.circle.selected_data = {0}
        self.circle.events.data.connect(self._on_data)

    def hide_circle(self) -> None:
        """Take the circle away."""
        circle, self.circle = self.circle, None
        if circle is not None:
            circle.events.data.disconnect(self._on_data)
            if circle in self._viewer.layers:
                self._viewer.layers.remove(circle)
        self.setChecked(False)

    def _on_toggled(self, is_on: bool) -> None:
        if not is_on:
            self.hide_circle()
        elif self.circle is None and not notify_errors(self.show_circle):
            self.setChecked(False)

    def _on_data(self, _event: object = None) -> None:
        """Read the new width once the mouse is released, and make the shape round again."""
        if self.circle is None or not len(self.circle.data):
            return
        corners = np.asarray(self.circle.data[0])[:, -2:]
        sides = np.ptp(corners, axis=0)
        if np.abs(sides - self._diameter_px).max() < 0.01:
            return  # it was moved only
        width = max(float(sides[np.abs(sides - self._diameter_px).argmax()]), SMALLEST_PX)
        self._diameter_px = width
        with self.circle.events.data.blocker():
            self.circle.data = [_corners((corners.min(0) + corners.max(0)) / 2, width)]
            self.circle.selected_data = {0}
        self.dragged.emit(width)

    def _on_removed(self, _event: object = None) -> None:
        if self.circle is not None and self.circle not in self._viewer.layers:
            self.hide_circle()


def _corners(centre: NDArray[np.float64], diameter_px: float) -> NDArray[np.float64]:
    half = diameter_px / 2
    return centre + half * np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]])


def _typical_place(viewer: ViewerModel, image: Image, diameter_px: float) -> NDArray[np.float64]:
    """Return the middle (y, x) of the cell in view whose area is most like a red cell's, else that of the view."""
    y0, x0, y1, x1 = visible_box(image) or (0, 0, *image_source(image).shape[-2:])
    cells = cells_layer_for(viewer, image)
    if cells is not None and has_table(cells):
        table = table_of(cells)
        y, x = (table[name].to_numpy() for name in CENTROID)
        away = np.abs(table["area_px"].to_numpy() - np.pi / 4 * diameter_px**2)
        away = np.where((y >= y0) & (y < y1) & (x >= x0) & (x < x1), away, np.inf)
        if len(away) and np.isfinite(away.min()):
            return np.array([y[away.argmin()], x[away.argmin()]])
    return np.array([(y0 + y1) / 2, (x0 + x1) / 2])
