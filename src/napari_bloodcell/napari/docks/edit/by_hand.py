"""Asks what to do with hand-made outlines before cells are found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtWidgets import QMessageBox

from napari_bloodcell.napari.layers.links import cells_layer_for
from napari_bloodcell.napari.session.opening import cells_session

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image
    from qtpy.QtWidgets import QWidget


def ask_to_keep(parent: QWidget, viewer: ViewerModel, image_layer: Image) -> bool | None:
    """Return whether to keep hand-made outlines, asking if there are some; None: cancel."""
    layer = cells_layer_for(viewer, image_layer)
    n = len(cells_session(viewer, layer).by_hand) if layer is not None else 0
    if not n:
        return True
    box = QMessageBox(parent)
    box.setWindowTitle("Find cells again?")
    which = "One cell of this image was" if n == 1 else f"{n:,} cells of this image were"
    box.setText(f"{which} added or outlined by hand. All others are found anew. Ctrl+Z takes it back.")
    keep = box.addButton("Keep by hand", QMessageBox.ButtonRole.AcceptRole)
    replace = box.addButton("Find all anew", QMessageBox.ButtonRole.DestructiveRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(keep)
    box.exec()
    pressed = box.clickedButton()
    return True if pressed is keep else False if pressed is replace else None
