"""The switch between the colours of types and those of kinds, in every dock that shows cells."""

from __future__ import annotations

from typing import Final
from weakref import ref

from napari.components import ViewerModel
from napari.layers import Labels
from qtpy.QtWidgets import QComboBox, QWidget

from napari_bloodcell.napari.docks.base import slim
from napari_bloodcell.napari.layers.cells import colour_by_kind
from napari_bloodcell.napari.layers.links import is_by_kind

CHOICES: Final = ("Coloured by class", "Coloured by kind")


class ColourSwitch(QComboBox):
    """Shows and sets whether the cells of a layer have the colours of their classes, or of their kinds."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.addItems(CHOICES)
        self.setToolTip("Give cells, and the typed layer, the colours of their classes, or of their kinds")
        slim(self)
        self._viewer: ref[ViewerModel] | None = None
        self._layer: ref[Labels] | None = None
        self.activated.connect(self._on_chosen)
        self.setEnabled(False)

    def use(self, viewer: ViewerModel, cells_layer: Labels | None) -> None:
        """Follow this layer, whichever dock changes its colours."""
        before = self._layer() if self._layer is not None else None
        if before is not cells_layer:
            if before is not None:
                before.events.colormap.disconnect(self._show)
            if cells_layer is not None:
                cells_layer.events.colormap.connect(self._show)
        self._viewer, self._layer = ref(viewer), None if cells_layer is None else ref(cells_layer)
        self.setEnabled(cells_layer is not None)
        self._show()

    def _show(self, _event: object = None) -> None:
        layer = self._layer() if self._layer is not None else None
        self.setCurrentIndex(int(layer is not None and is_by_kind(layer)))

    def _on_chosen(self, index: int) -> None:
        layer = self._layer() if self._layer is not None else None
        viewer = self._viewer() if self._viewer is not None else None
        if layer is not None and viewer is not None and is_by_kind(layer) != bool(index):
            colour_by_kind(viewer, layer, bool(index))
