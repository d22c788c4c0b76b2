"""How the cells look while they are reviewed: how strong the outlines are, and one class brought out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from weakref import ref

from napari.layers import Labels
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QSlider, QWidget

from napari_bloodcell.napari.docks.base import fill_column, form_rows, slim
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers.look import HIDING_KEY, bring_out

ALL: Final = "all classes alike"


class LookControls(QWidget):
    """Opacity of the outlines, and the class that is brought out."""

    def __init__(self) -> None:
        super().__init__()
        self._find: ref[Labels] | None = None
        self.opacity = QSlider(Qt.Orientation.Horizontal)
        self.opacity.setRange(10, 100)
        self.opacity.setAccessibleName("Opacity of the outlines")
        self.opacity.setToolTip(f"How strong the outlines are; hold {HIDING_KEY} to see the image alone")
        self.brought_out = QComboBox()
        slim(self.brought_out)
        self.brought_out.setToolTip("Outline one class clearly, and all others faintly")
        fill_column(self, form_rows(Outlines=self.opacity, Bring_out=self.brought_out))
        self.opacity.valueChanged.connect(self._on_opacity)
        self.brought_out.currentIndexChanged.connect(self._on_class)

    def follow(self, layer: Labels | None, names: Sequence[str] = ()) -> None:
        """Show how a layer looks, and change that one from now on."""
        is_same = layer is not None and self._layer is layer
        chosen = self.brought_out.currentText() if is_same else ALL
        self._find = None  # what is shown now is no wish
        self.brought_out.clear()
        self.brought_out.addItems([ALL, *names])
        self.brought_out.setCurrentIndex(max(self.brought_out.findText(chosen), 0))
        if layer is not None:
            if not is_same:
                self.opacity.setValue(round(100 * layer.opacity))
            self._find = ref(layer)
            if is_same and self.brought_out.currentText() != chosen:  # the class is gone
                self._on_class()

    @property
    def _layer(self) -> Labels | None:
        return self._find() if self._find is not None else None

    def _on_opacity(self, percent: int) -> None:
        if self._layer is not None:
            self._layer.opacity = percent / 100

    def _on_class(self, _index: int = 0) -> None:
        layer, i = self._layer, self.brought_out.currentIndex()
        if layer is not None:
            bring_out(layer, layers.lookup_of(layer), self.brought_out.currentText() if i > 0 else None)
