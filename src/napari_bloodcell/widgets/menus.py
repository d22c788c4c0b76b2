"""What the plugin does outside of its docks: entries of the Layers menus, and layers that were read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QTimer

from napari_bloodcell.widgets._layers import is_cells, relink
from napari_bloodcell.widgets._preferences import PLUGIN

if TYPE_CHECKING:
    from napari.viewer import Viewer
    from qtpy.QtWidgets import QWidget


def open_dock(viewer: Viewer, name: str) -> QWidget:
    """Show a dock of the plugin, opening it where it is not open yet, and return its widget."""
    widget: QWidget
    dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, name, tabify=True)
    dock.show()
    dock.raise_()
    return widget


def open_segment(napari_viewer: Viewer) -> None:
    """Open the Segment dock."""
    open_dock(napari_viewer, "Segment")


def open_edit(napari_viewer: Viewer) -> None:
    """Open the dock in which cells are corrected by hand."""
    open_dock(napari_viewer, "Edit cells")


def open_classify(napari_viewer: Viewer) -> None:
    """Open the Classify dock."""
    open_dock(napari_viewer, "Classify")


def open_count(napari_viewer: Viewer) -> None:
    """Open the Count dock."""
    open_dock(napari_viewer, "Count")


def relink_soon(viewer: Viewer) -> None:
    """Derive the typed layers of results that are being read, once napari has made their layers."""

    def relink_all() -> None:
        for layer in [one for one in viewer.layers if is_cells(one)]:
            relink(viewer, layer)

    QTimer.singleShot(0, relink_all)
