"""A grid of cell pictures, loaded as it is scrolled, in which cells can be marked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from napari.layers import Image, Labels
from numpy.typing import NDArray
from qtpy.QtCore import (
    QAbstractListModel,
    QItemSelectionModel,
    QModelIndex,
    QObject,
    QRunnable,
    QSize,
    Qt,
    QThreadPool,
    Signal,
)
from qtpy.QtGui import QColor, QIcon, QImage, QKeyEvent, QPixmap
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QListView, QWidget

from napari_bloodcell.core.cells import split_name
from napari_bloodcell.core.errors import BloodCellError
from napari_bloodcell.core.geometry import Box
from napari_bloodcell.napari.docks.base import fill, fill_column, make_button
from napari_bloodcell.napari.docks.references import References
from napari_bloodcell.napari.layers.features import INDEX, certainty_of, is_called, places_of, rows_of
from napari_bloodcell.napari.layers.images import ImageSource, image_source
from napari_bloodcell.napari.layers.links import full_resolution
from napari_bloodcell.napari.layers.look import describe_cell
from napari_bloodcell.napari.layers.selection import COLOUR
from napari_bloodcell.napari.session.changes import TypeChange

UNSURE_FIRST, SURE_FIRST = "least certain first", "most certain first"
FEW: Final = 50_000
"""In lists up to this length, cells that come back are sorted in; in longer ones they come first."""
SIDE_PX: Final = 64
"""Side of a picture."""
CELL_PX: Final = QSize(76, 92)
PAGE: Final = 240
"""Number of cells added when the end of the list is reached."""
MARKED: Final = f"QListView::item:selected {{ border: 2px solid {COLOUR}; background: transparent; }}"
"""The colour of selected cells; visible in every theme, with or without focus."""
ABNORMAL: Final = "⚑"
"""Before the caption of a cell that is marked as abnormal."""
KEPT: Final = 4000
"""Number of cached pictures."""


class GalleryModel(QAbstractListModel):
    """Sorted cells with the pictures loaded so far; the list grows while scrolling."""

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
        """Show these cells; `captions` returns text and tooltip by id."""
        self.beginResetModel()
        self.ids, self._captions = ids, captions
        self._shown = min(len(ids), PAGE)
        self.endResetModel()

    def forget_pictures(self) -> None:
        """Drop all pictures: image or cells changed."""
        self._pictures.clear()

    def remove(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Remove cells."""
        rows = np.flatnonzero(np.isin(self.ids, np.asarray(ids)))
        hidden = rows[rows >= self._shown]
        self.ids = np.delete(self.ids, hidden)
        for row in rows[rows < self._shown][::-1].tolist():
            self.beginRemoveRows(QModelIndex(), row, row)
            self.ids = np.delete(self.ids, row)
            self._shown -= 1
            self.endRemoveRows()

    def insert(self, ids: Sequence[int], row: int = 0) -> None:
        """Insert cells at a row."""
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
        """Return whether a cell's picture is loaded."""
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
    """The grid: cells are marked by click, Ctrl- or Shift-click or rubber band; a double click goes to a cell."""

    cell_chosen = Signal(int)
    """By double click, or Enter."""
    key_pressed = Signal(str)
    """A letter or digit, upper case."""
    marked = Signal()
    """The marked cells changed."""

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
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOn)  # else it flickers at the edge
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
        """Take pictures from these layers."""
        self.loader.use(cells_layer, image_layer)
        self._model.forget_pictures()

    def marked_cells(self) -> list[int]:
        """Return the ids of the marked cells."""
        selection = self.selectionModel()
        rows = selection.selectedIndexes() if selection is not None else []
        return sorted(int(index.data(Qt.ItemDataRole.UserRole)) for index in rows)

    def mark(self, ids: Sequence[int]) -> None:
        """Mark exactly these cells."""
        selection = self.selectionModel()
        if selection is None:
            return
        selection.clearSelection()
        for row in np.flatnonzero(np.isin(self._model.ids[: self._model.rowCount()], list(ids))).tolist():
            selection.select(self._model.index(row), QItemSelectionModel.SelectionFlag.Select)

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Emit letters and digits; other keys navigate the grid."""
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
    icon.addPixmap(pixmap, QIcon.Mode.Selected)  # not tinted, so that marked cells stay visible
    return icon


def _blank_icon() -> QIcon:
    pixmap = QPixmap(SIDE_PX, SIDE_PX)
    pixmap.fill(QColor(128, 128, 128, 60))
    return QIcon(pixmap)


MARGIN: Final = 0.25
"""Added on each side, relative to the cell's box: the surroundings help to identify a cell."""
DIMMED: Final = 0.55
"""Pixels outside the cell keep this share of their brightness."""
BATCH: Final = 12
"""Number of pictures that a thread cuts at a time."""


class _Signals(QObject):
    cut = Signal(object)
    """dict of int to ndarray of uint8, shape (h, w, 3)."""


class _Cut(QRunnable):
    """Cuts some cells."""

    def __init__(self, image: ImageSource, cells: Any, places: dict[int, tuple[Box, tuple[int, ...]]]) -> None:
        super().__init__()
        self.signals = _Signals()
        self._image, self._cells, self._places = image, cells, places

    def run(self) -> None:
        """Cut the cells; a picture that cannot be read is black."""
        pictures = {}
        for cell, (box, plane) in self._places.items():
            try:
                pictures[cell] = cut_with_surroundings(self._image, self._cells, cell, box, plane)
            except (BloodCellError, OSError, ValueError, IndexError, RuntimeError):
                pictures[cell] = np.zeros((8, 8, 3), np.uint8)
        self.signals.cut.emit(pictures)


class CutoutLoader(QObject):
    """Cuts requested cells in a thread, the latest request first."""

    loaded = Signal(object)
    """dict of int to ndarray of uint8, shape (h, w, 3): square pictures by id."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cells: Labels | None = None
        self._image: Image | None = None
        self._wanted: list[int] = []
        self._running: _Cut | None = None

    def use(self, cells_layer: Labels | None, image_layer: Image | None) -> None:
        """Cut from these layers; earlier requests are dropped."""
        self._cells, self._image = cells_layer, image_layer
        self._wanted.clear()
        self._running = None

    def ask(self, cell: int) -> None:
        """Request the picture of a cell."""
        if cell not in self._wanted:
            self._wanted.append(cell)
            del self._wanted[:-200]  # pictures scrolled past are requested again when seen
        self._next()

    def _next(self) -> None:
        if self._running is not None or not self._wanted or self._cells is None or self._image is None:
            return
        batch = self._wanted[-BATCH:][::-1]
        del self._wanted[-BATCH:]
        features, labels = self._cells.features, full_resolution(self._cells)
        places = places_of(features, batch, labels.shape[:-2])
        self._running = _Cut(image_source(self._image), labels, places)
        self._running.signals.cut.connect(self._on_cut)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.start(self._running)

    def _on_cut(self, pictures: dict[int, NDArray[np.uint8]]) -> None:
        if self._running is None or self.sender() is not self._running.signals:
            return  # of layers that are not shown any more
        self._running = None
        self.loaded.emit(pictures)
        self._next()


def cut_with_surroundings(
    image: ImageSource, cells: Any, cell: int, box: Box, plane: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """Return a square picture of a cell, (h, h, 3) uint8, with its surroundings dimmed."""
    y0, x0, y1, x1 = box
    half = max(1, round((0.5 + MARGIN) * max(y1 - y0, x1 - x0)))
    cy, cx = (y0 + y1) // 2, (x0 + x1) // 2
    height, width = image.shape[-2:]
    top, left, bottom, right = max(cy - half, 0), max(cx - half, 0), min(cy + half, height), min(cx + half, width)
    window = (*plane, slice(top, bottom), slice(left, right))
    crop = as_rgb(np.asarray(image.data[window]), rgb=image.rgb)
    mask = np.asarray(cells[window]) == cell
    shown = np.where(mask[..., None], crop, (crop * DIMMED).astype(np.uint8))
    picture = np.full((2 * half, 2 * half, 3), 40, np.uint8)
    place = (slice(top - cy + half, bottom - cy + half), slice(left - cx + half, right - cx + half))
    picture[place] = shown
    return picture


def as_rgb(pixels: NDArray[np.generic], *, rgb: bool) -> NDArray[np.uint8]:
    """Return pixels (h, w) or (h, w, 3 or 4) of any type as (h, w, 3) uint8, good enough to look at."""
    if pixels.dtype == bool:
        values = pixels.astype(np.float32) * 255
    elif pixels.dtype.kind == "f":
        values = np.nan_to_num(pixels.astype(np.float32))
        values = values * 255 if values.max(initial=0) <= 1.0 else values
    elif pixels.dtype.itemsize > 1:
        values = pixels.astype(np.float32)
        most = values.max(initial=1)
        values = values * (255 / most if most > 255 else 1.0)
    else:
        values = pixels.astype(np.float32)
    shown = np.clip(values, 0, 255).astype(np.uint8)
    if not rgb:
        return np.repeat(shown[..., None], 3, axis=-1)
    return shown[..., :3]


class GalleryPanel(QWidget):
    """The gallery of one class, with its order and the class that marked cells are moved to."""

    move_wanted = Signal(object, str)
    """ids, class"""
    key_pressed = Signal(str)
    cell_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._layer: Labels | None = None
        self._class, self._order, self._target = QComboBox(), QComboBox(), QComboBox()
        self._class.setToolTip("The class whose cells are shown")
        self._order.addItems([UNSURE_FIRST, SURE_FIRST])
        self._order.setToolTip("By the probability that the model gave; what was typed by hand counts as certain")
        self._target.setToolTip("The class that the marked cells are moved to")
        self.gallery, self.references = Gallery(), References()
        self._number_label = QLabel()
        self.move_marked = make_button(
            "Move marked to", "Give the marked cells this class; in the grid the class's key does the same"
        )
        self.move_marked.setEnabled(False)
        above = fill(QHBoxLayout(), self._class, self._order, stretched=[self._class, self._order])
        below = fill(QHBoxLayout(), self.move_marked, self._target, stretched=[self._target])
        parts = (above, self.references, self.gallery, self._number_label, below)
        fill_column(self, *parts, stretched=self.gallery, top=6)
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
        self.references.show_kind(self.cell_type)
        self._show_number()

    def follow(self, change: TypeChange) -> None:
        """Remove cells that left the class, and insert those that joined it."""
        if self._layer is None:
            return
        features = self._layer.features
        rows = rows_of(features, change.ids)
        ids = features[INDEX].to_numpy(np.int64)[rows]
        is_here = is_called(features.iloc[rows], self.cell_type)
        model = self.gallery.cells
        model.remove(np.setdiff1d(change.ids, ids[is_here]))
        certain = certainty_of(features, self.cell_type)[rows][is_here]
        for cell, probability in zip(ids[is_here].tolist(), certain.tolist(), strict=True):
            model.insert([cell], self._place_of(probability))
        self._show_number()

    def _ordered(self) -> NDArray[np.int64]:
        if self._layer is None or "cell_type" not in self._layer.features.columns:
            return np.empty(0, np.int64)
        features = self._layer.features
        rows = np.flatnonzero(is_called(features, self.cell_type))
        ids, keys = features[INDEX].to_numpy(np.int64)[rows], self._keys(rows)
        return np.asarray(ids[np.argsort(keys, kind="stable")], np.int64)

    def _keys(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the sort keys of some rows."""
        if self._layer is None:
            return np.empty(0)
        certain = certainty_of(self._layer.features, self.cell_type)[rows]
        return np.asarray(-certain if self._order.currentText() == SURE_FIRST else certain, np.float64)

    def _place_of(self, probability: float) -> int:
        """Return the row for a cell of this probability."""
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
        row, source = int(rows[0]), "subtype_source" if split_name(self.cell_type)[1] else "type_source"
        probability = certainty_of(features, self.cell_type)[row]
        by_hand = source in features.columns and features[source].iat[row] == "user"
        short = "by hand" if by_hand else f"{100 * probability:.1f} %" if np.isfinite(probability) else "–"
        if "abnormal" in features.columns and features["abnormal"].iat[row]:
            short = f"{ABNORMAL} {short}"
        return short, describe_cell(self._layer, cell)

    def _on_marked(self) -> None:
        self.move_marked.setEnabled(bool(self.gallery.marked_cells()))
        self._show_number()

    def _show_number(self) -> None:
        n, marked = len(self.gallery.cells.ids), len(self.gallery.marked_cells())
        self._number_label.setText(f"{n:,} cell{'' if n == 1 else 's'}" + (f", {marked:,} marked" if marked else ""))
