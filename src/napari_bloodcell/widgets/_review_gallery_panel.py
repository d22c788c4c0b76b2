"""The gallery of one class, the least certain cells first: the wrong ones are marked and moved together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_bloodcell.widgets._cell_features import INDEX, rows_of
from napari_bloodcell.widgets._review_gallery import Gallery
from napari_bloodcell.widgets._status import describe_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from napari_bloodcell.widgets._review_steps import Step

UNSURE_FIRST, SURE_FIRST = "least certain first", "most certain first"
FEW: Final = 50_000
"""Cells that come back into a list that is not longer find their place in the order; else they come first."""


class GalleryPanel(QWidget):
    """Class, order, grid, and the class that marked cells are moved to."""

    move_wanted = Signal(object, str)
    """ids, class"""
    key_pressed = Signal(str)
    cell_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._layer: Labels | None = None
        self._class, self._order, self._target = QComboBox(), QComboBox(), QComboBox()
        self._class.setToolTip("Whose cells are shown")
        self._order.addItems([UNSURE_FIRST, SURE_FIRST])
        self._order.setToolTip("By the probability that the model gave; what was typed by hand counts as certain")
        self._target.setToolTip("Where the marked cells are moved")
        self.gallery = Gallery()
        self._told = QLabel()
        self.move_marked = QPushButton("Move marked to")
        self.move_marked.setToolTip("Give the marked cells this class; in the grid the class's key does the same")
        self.move_marked.setEnabled(False)
        top, below = QHBoxLayout(), QHBoxLayout()
        top.addWidget(self._class, 1)
        top.addWidget(self._order, 1)
        below.addWidget(self.move_marked)
        below.addWidget(self._target, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(top)
        layout.addWidget(self.gallery, 1)
        layout.addWidget(self._told)
        layout.addLayout(below)
        self._class.currentIndexChanged.connect(lambda _: self.refresh())
        self._order.currentIndexChanged.connect(lambda _: self.refresh())
        self.gallery.marked.connect(self._on_marked)
        self.gallery.key_pressed.connect(self.key_pressed)
        self.gallery.cell_chosen.connect(self.cell_chosen)
        self.move_marked.clicked.connect(
            lambda: self.move_wanted.emit(self.gallery.marked_cells(), self._target.currentText())
        )

    @property
    def cell_type(self) -> str:
        """The class that is shown."""
        return self._class.currentText()

    def show_class(self, name: str) -> None:
        """Show the cells of a class."""
        self._class.setCurrentIndex(max(self._class.findText(name), 0))

    def use(self, cells_layer: Labels | None, image_layer: Image | None) -> None:
        """Show cells of this layer."""
        self._layer = cells_layer
        self.gallery.use(cells_layer, image_layer)
        self.refresh()

    def show_classes(self, names: Sequence[str]) -> None:
        """Offer these classes."""
        for combo in (self._class, self._target):
            before = combo.currentText()
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(list(names))
            combo.setCurrentIndex(max(combo.findText(before), 0))
            combo.blockSignals(False)
        if self._target.currentText() == self._class.currentText() and self._target.count() > 1:
            self._target.setCurrentIndex(1)
        self.refresh()

    def refresh(self) -> None:
        """List the cells of the class anew."""
        self.gallery.cells.show_cells(self._ordered(), self._caption)
        self._tell()

    def follow(self, step: Step) -> None:
        """Take cells out whose class is another now, and put those in that came into this one."""
        if self._layer is None:
            return
        features = self._layer.features
        rows = rows_of(features, step.ids)
        ids = features[INDEX].to_numpy(np.int64)[rows]
        is_here = (features["cell_type"].iloc[rows] == self.cell_type).to_numpy(bool)
        model = self.gallery.cells
        model.remove(np.setdiff1d(step.ids, ids[is_here]))
        for cell, probability in zip(
            ids[is_here].tolist(), features["probability"].to_numpy(np.float64)[rows][is_here].tolist(), strict=True
        ):
            model.insert([cell], self._place_of(probability))
        self._tell()

    def _ordered(self) -> NDArray[np.int64]:
        if self._layer is None or "cell_type" not in self._layer.features.columns:
            return np.empty(0, np.int64)
        features = self._layer.features
        rows = np.flatnonzero((features["cell_type"] == self.cell_type).to_numpy(bool))
        ids, keys = features[INDEX].to_numpy(np.int64)[rows], self._keys(rows)
        return np.asarray(ids[np.argsort(keys, kind="stable")], np.int64)

    def _keys(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return by what cells are sorted."""
        if self._layer is None:
            return np.empty(0)
        certain = self._layer.features["probability"].to_numpy(np.float64)[rows]
        return np.asarray(-certain if self._order.currentText() == SURE_FIRST else certain, np.float64)

    def _place_of(self, probability: float) -> int:
        """Return where a cell of this probability belongs in the list."""
        ids = self.gallery.cells.ids
        if self._layer is None or len(ids) > FEW:
            return 0
        key = -probability if self._order.currentText() == SURE_FIRST else probability
        return int(np.searchsorted(self._keys(rows_of(self._layer.features, ids)), key))

    def _caption(self, cell: int) -> tuple[str, str]:
        if self._layer is None:
            return "", ""
        features = self._layer.features
        rows = rows_of(features, [cell])
        if not len(rows):
            return "", f"cell {cell} is gone"
        probability = features["probability"].iat[rows[0]]
        by_hand = features["type_source"].iat[rows[0]] == "user"
        short = "by hand" if by_hand else f"{100 * probability:.1f} %" if np.isfinite(probability) else "–"
        return short, describe_cell(self._layer, cell)

    def _on_marked(self) -> None:
        self.move_marked.setEnabled(bool(self.gallery.marked_cells()))
        self._tell()

    def _tell(self) -> None:
        n, marked = len(self.gallery.cells.ids), len(self.gallery.marked_cells())
        self._told.setText(f"{n:,} cell{'' if n == 1 else 's'}" + (f", {marked:,} marked" if marked else ""))
