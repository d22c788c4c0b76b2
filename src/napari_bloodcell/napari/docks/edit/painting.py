"""Painting in a pyramid: a small layer of the region in view, whose strokes become edits of the whole."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.events import Event
from numpy.typing import NDArray
from qtpy.QtWidgets import QPushButton

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, slices_of
from napari_bloodcell.napari.layers.features import cells_outside
from napari_bloodcell.napari.layers.images import visible_box
from napari_bloodcell.napari.layers.links import KEY, full_resolution, info_of
from napari_bloodcell.napari.layers.look import moved_placement, placement_of
from napari_bloodcell.napari.notify import connect_for_life, notify_errors
from napari_bloodcell.napari.session.opening import bind_undo
from napari_bloodcell.napari.session.session import CellsSession
from napari_bloodcell.napari.session.strokes import strokes_of

LARGEST_PX: Final = 4096 * 4096
"""Largest region that can be painted in."""
PAINTING: Final = "painting"
"""Kind of the layer."""


class PaintPatch:
    """A layer with a region of the cells, for napari's brush, eraser and fill; each stroke edits the session.

    `box` is (y0, x0, y1, x1), pixels of the finest level, by default the part in view. Raises `InputError` if no cells
    are in view, or too many pixels.
    """

    def __init__(self, viewer: ViewerModel, session: CellsSession, box: Box | None = None) -> None:
        self._viewer, self._session = viewer, session
        cells = session.layer
        found = box or visible_box(cells)
        if found is None:
            raise InputError(f"Nothing of {cells.name!r} is in sight. Move the cells into the window.")
        height, width = found[2] - found[0], found[3] - found[1]
        if height * width > LARGEST_PX:
            raise InputError(f"{height} × {width} pixels are in view, too many to paint in. Zoom in first.")
        self.box = found
        place = {**placement_of(cells), **moved_placement(cells, found[:2])}
        self.layer = Labels(
            self._read(),
            name=f"{info_of(cells).get('image') or cells.name} cells (painting)",
            metadata={KEY: {"kind": PAINTING, "cells_id": str(cells.unique_id)}},
            opacity=0.6,
            **place,
        )
        self.layer.selected_label = session.next_id
        self.layer.events.paint.connect(self._on_paint)
        self.layer.events.selected_label.connect(self._on_label)
        for name in ("done", "undone", "redone"):
            getattr(session.events, name).connect(self.refresh)
        self.layer.bind_key("M", self._on_new, overwrite=True)
        bind_undo(self.layer, session)
        viewer.add_layer(self.layer)
        viewer.layers.selection.active = self.layer
        self.layer.mode = "paint"

    @property
    def is_gone(self) -> bool:
        """Whether the user deleted the layer."""
        return self.layer not in self._viewer.layers

    def close(self) -> None:
        """Remove the layer; the strokes are in the cells."""
        for name in ("done", "undone", "redone"):
            getattr(self._session.events, name).disconnect(self.refresh)
        self.layer.events.paint.disconnect(self._on_paint)
        if not self.is_gone:
            self._viewer.layers.remove(self.layer)

    def refresh(self, _event: object = None) -> None:
        """Show the current cells."""
        now = self._read()
        if not np.array_equal(now, self.layer.data):
            np.copyto(self.layer.data, now)
            self.layer.refresh(extent=False)

    def _read(self) -> NDArray[np.int32]:
        return np.array(full_resolution(self._session.layer)[slices_of(self.box)], np.int32)

    def _on_paint(self, event: Event) -> None:
        """Turn strokes into edits."""
        y0, x0 = self.box[:2]
        for stroke in strokes_of(self.layer.data, event.value):
            self._session.take_stroke(stroke.before, stroke.after, (stroke.corner[0] + y0, stroke.corner[1] + x0))

    def _on_label(self, _event: object = None) -> None:
        """Refuse to paint a cell that lies elsewhere on the slide, and pick a new id instead."""
        if len(cells_outside(self._session.layer.features, [int(self.layer.selected_label)], self.box)):
            self.layer.selected_label = self._session.next_id

    def _on_new(self, _layer: Any) -> None:
        """Paint a new cell from now on."""
        self.layer.selected_label = self._session.next_id


class PaintButton(QPushButton):
    """Opens and closes a layer to paint in; hidden for cells that can be painted directly."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("Paint what is in view")
        self.setToolTip(
            "Opens the cells in view for napari's brush, eraser and fill. Each stroke is written into all levels of "
            "the slide and its table, and can be undone. Key M: a new cell. Press again when done"
        )
        self.setCheckable(True)
        self._viewer = viewer
        self._session: CellsSession | None = None
        self.patch: PaintPatch | None = None
        self.toggled.connect(self._on_toggled)
        connect_for_life(viewer.layers.events.removed, self._on_removed)
        self.follow(None)

    def follow(self, session: CellsSession | None) -> None:
        """Switch to another session, and stop painting."""
        self.close_patch()
        self._session = session
        self.setVisible(session is not None and session.layer.multiscale and session.layer.ndim == 2)

    def close_patch(self) -> None:
        """Remove the layer that is painted in."""
        if self.patch is not None:
            patch, self.patch = self.patch, None
            patch.close()
        self.setChecked(False)

    def _on_toggled(self, is_on: bool) -> None:
        if not is_on:
            self.close_patch()
        elif self._session is not None:
            notify_errors(partial(self._open, self._session))
            if self.patch is None:
                self.setChecked(False)

    def _open(self, session: CellsSession) -> None:
        self.patch = PaintPatch(self._viewer, session)

    def _on_removed(self, _event: object = None) -> None:
        if self.patch is not None and self.patch.is_gone:
            self.close_patch()
