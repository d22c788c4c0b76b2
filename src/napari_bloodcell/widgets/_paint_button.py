"""The button of the Edit cells dock that paints cells of a pyramid, which napari itself cannot paint."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QPushButton

from napari_bloodcell.widgets._errors import notify_errors
from napari_bloodcell.widgets._paint_patch import PaintPatch
from napari_bloodcell.widgets._slots import connect_for_life

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_bloodcell.widgets._edit_session import EditSession


class PaintButton(QPushButton):
    """Adds a layer of the region in view to paint in, and removes it; hidden for cells that can be painted directly."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("Paint what is in view")
        self.setToolTip(
            "Opens the cells in view for napari's brush, eraser and fill. Each stroke is written into all levels of "
            "the slide and its table, and can be undone. Key M: a new cell. Press again when done"
        )
        self.setCheckable(True)
        self._viewer = viewer
        self._session: EditSession | None = None
        self.patch: PaintPatch | None = None
        self.toggled.connect(self._on_toggled)
        connect_for_life(viewer.layers.events.removed, self._on_removed)
        self.follow(None)

    def follow(self, session: EditSession | None) -> None:
        """Turn to the edits of another layer of cells; what is painted in is closed."""
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

    def _open(self, session: EditSession) -> None:
        self.patch = PaintPatch(self._viewer, session)

    def _on_removed(self, _event: object = None) -> None:
        if self.patch is not None and self.patch.is_gone:
            self.close_patch()
