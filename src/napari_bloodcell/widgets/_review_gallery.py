"""A grid of pictures of cells that is filled where it is looked at, in which cells are marked."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from qtpy.QtCore import QAbstractListModel, QItemSelectionModel, QModelIndex, QSize, Qt, Signal
from qtpy.QtGui import QColor, QIcon, QImage, QPixmap
from qtpy.QtWidgets import QListView

from napari_bloodcell.widgets._highlight import COLOUR
from napari_bloodcell.widgets._review_cutouts import CutoutLoader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from napari.layers import Image, Labels
    from numpy.typing import NDArray
    from qtpy.QtGui import QKeyEvent

SIDE_PX: Final = 64
"""Of a picture."""
CELL_PX: Final = QSize(76, 92)
PAGE: Final = 240
"""Cells that the list grows by when its end comes into view."""
MARKED: Final = f"QListView::item:selected {{ border: 2px solid {COLOUR}; background: transparent; }}"
"""As the outlines of selected cells: seen in every theme, also where the grid has not the focus."""
KEPT: Final = 4000
"""Pictures that are kept."""


class GalleryModel(QAbstractListModel):
    """Cells in an order, with their pictures as far as they were made; the list grows as one scrolls."""

    def __init__(self, loader: CutoutLoader) -> None:
        super().__init__()
        self._loader = loader
        self._pictures: OrderedDict[int, QIcon] = OrderedDict()
        self._captions: Callable[[int], tuple[str, str]] = lambda cell: (str(cell), "")
        self._shown = 0
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._blank = _blank_icon()
        loader.loaded.connect(self._on_loaded)

    def show_cells(self, ids: NDArray[np.int64], captions: Callable[[int], tuple[str, str]]) -> None:
        """Show these cells; `captions` gives text and tooltip by id."""
        self.beginResetModel()
        self.ids, self._captions = ids, captions
        self._shown = min(len(ids), PAGE)
        self.endResetModel()

    def forget_pictures(self) -> None:
        """Make pictures anew: the image or the cells are others."""
        self._pictures.clear()

    def remove(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Take cells out."""
        rows = np.flatnonzero(np.isin(self.ids, np.asarray(ids)))
        hidden = rows[rows >= self._shown]
        self.ids = np.delete(self.ids, hidden)
        for row in rows[rows < self._shown][::-1].tolist():
            self.beginRemoveRows(QModelIndex(), row, row)
            self.ids = np.delete(self.ids, row)
            self._shown -= 1
            self.endRemoveRows()

    def insert(self, ids: Sequence[int], row: int = 0) -> None:
        """Put cells at a place."""
        fresh = np.setdiff1d(np.asarray(ids, np.int64), self.ids)
        if len(fresh):
            row = min(row, self._shown)
            self.beginInsertRows(QModelIndex(), row, row + len(fresh) - 1)
            self.ids = np.insert(self.ids, row, fresh)
            self._shown += len(fresh)
            self.endInsertRows()

    def rowCount(self, parent: QModelIndex = QModelIndex()) -> int:  # noqa: B008 - Qt's own
        """Return how many cells are listed so far."""
        return 0 if parent.isValid() else self._shown

    def canFetchMore(self, parent: QModelIndex) -> bool:
        """Return whether there are more cells."""
        return self._shown < len(self.ids)

    def fetchMore(self, parent: QModelIndex) -> None:
        """List more cells."""
        more = min(PAGE, len(self.ids) - self._shown)
        self.beginInsertRows(QModelIndex(), self._shown, self._shown + more - 1)
        self._shown += more
        self.endInsertRows()

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return picture, text or id of a cell."""
        if not index.isValid() or index.row() >= self._shown:
            return None
        cell = int(self.ids[index.row()])
        if role == Qt.ItemDataRole.DecorationRole:
            icon = self._pictures.get(cell)
            if icon is None:
                self._loader.ask(cell)
            return icon or self._blank
        if role == Qt.ItemDataRole.DisplayRole:
            return self._captions(cell)[0]
        if role in (Qt.ItemDataRole.ToolTipRole, Qt.ItemDataRole.AccessibleTextRole):
            return self._captions(cell)[1]
        if role == Qt.ItemDataRole.UserRole:
            return cell
        return None

    def has_picture(self, cell: int) -> bool:
        """Return whether the picture of a cell is there."""
        return cell in self._pictures

    def _on_loaded(self, pictures: dict[int, NDArray[np.uint8]]) -> None:
        for cell, picture in pictures.items():
            self._pictures[cell] = icon_of(picture)
        while len(self._pictures) > KEPT:
            self._pictures.popitem(last=False)
        rows = np.flatnonzero(np.isin(self.ids[: self._shown], list(pictures)))
        for row in rows.tolist():
            self.dataChanged.emit(self.index(row), self.index(row), [Qt.ItemDataRole.DecorationRole])


class Gallery(QListView):
    """The grid. Cells are marked by clicks, Ctrl- and Shift-clicks, or a band; a double click goes to a cell."""

    cell_chosen = Signal(int)
    """Of a double click, or Enter."""
    key_pressed = Signal(str)
    """A letter or digit, in capitals."""
    marked = Signal()
    """Other cells are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.loader = CutoutLoader(self)
        self._model = GalleryModel(self.loader)
        self.setModel(self._model)
        self.setViewMode(QListView.ViewMode.IconMode)
        self.setResizeMode(QListView.ResizeMode.Adjust)
        self.setMovement(QListView.Movement.Static)
        self.setUniformItemSizes(True)
        self.setIconSize(QSize(SIDE_PX, SIDE_PX))
        self.setGridSize(CELL_PX)
        self.setSelectionMode(QListView.SelectionMode.ExtendedSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)  # else it flickers at the rim
        self.setMinimumHeight(2 * CELL_PX.height() + 12)
        self.setStyleSheet(MARKED)
        self.setAccessibleName("Pictures of cells")
        self.setToolTip("Mark the wrong ones and press the key of their class. Double click: go to the cell")
        self.doubleClicked.connect(lambda index: self.cell_chosen.emit(int(index.data(Qt.ItemDataRole.UserRole))))
        selection = self.selectionModel()
        if selection is not None:
            selection.selectionChanged.connect(lambda *_: self.marked.emit())

    @property
    def cells(self) -> GalleryModel:
        """The cells that are listed."""
        return self._model

    def use(self, cells_layer: Labels | None, image_layer: Image | None) -> None:
        """Take the pictures from these layers."""
        self.loader.use(cells_layer, image_layer)
        self._model.forget_pictures()

    def marked_cells(self) -> list[int]:
        """Return the ids of the marked cells."""
        selection = self.selectionModel()
        rows = selection.selectedIndexes() if selection is not None else []
        return sorted(int(index.data(Qt.ItemDataRole.UserRole)) for index in rows)

    def mark(self, ids: Sequence[int]) -> None:
        """Mark these cells, and no others."""
        selection = self.selectionModel()
        if selection is None:
            return
        selection.clearSelection()
        for row in np.flatnonzero(np.isin(self._model.ids[: self._model.rowCount()], list(ids))).tolist():
            selection.select(self._model.index(row), QItemSelectionModel.SelectionFlag.Select)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Tell of letters and digits; all else moves about in the grid."""
        text = event.text().upper() if event is not None else ""
        plain = event is not None and not event.modifiers() & Qt.KeyboardModifier.ControlModifier
        if plain and len(text) == 1 and text.isalnum():
            self.key_pressed.emit(text)
            return
        if event is not None and event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            index = self.currentIndex()
            if index.isValid():
                self.cell_chosen.emit(int(index.data(Qt.ItemDataRole.UserRole)))
            return
        super().keyPressEvent(event)


def icon_of(picture: NDArray[np.uint8], side: int = SIDE_PX) -> QIcon:
    """Return a picture (h, w, 3) uint8 as an icon, scaled to fit."""
    height, width = picture.shape[:2]
    image = QImage(picture.tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)
    mode = Qt.TransformationMode.SmoothTransformation
    pixmap = QPixmap.fromImage(image).scaled(side, side, Qt.AspectRatioMode.KeepAspectRatio, mode)
    icon = QIcon(pixmap)
    icon.addPixmap(pixmap, QIcon.Mode.Selected)  # not tinted: what is marked must still be seen
    return icon


def _blank_icon() -> QIcon:
    pixmap = QPixmap(SIDE_PX, SIDE_PX)
    pixmap.fill(QColor(128, 128, 128, 60))
    return QIcon(pixmap)
