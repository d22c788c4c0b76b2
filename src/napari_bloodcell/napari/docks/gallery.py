"""A grid of cell pictures, loaded as it is scrolled, in which cells can be marked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
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
from qtpy.QtGui import QColor, QIcon, QImage, QKeyEvent, QPixmap, QWheelEvent
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLabel, QListView, QWidget

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
"""Side of a picture, before it is zoomed."""
SIDES_PX: Final = (48, 64, 96, 144)
"""Sides that it can be zoomed to."""
CELL_PX: Final = QSize(76, 92)
PER_LAYER: Final = 2**32
"""A cell of the n-th layer that is shown has the key n times this plus its id; the first layer is the one reviewed."""
PAGE: Final = 240
"""Number of cells added when the end of the list is reached."""
MARKED: Final = f"QListView::item:selected {{ border: 2px solid {COLOUR}; background: transparent; }}"
"""The colour of selected cells; visible in every theme, with or without focus."""
ABNORMAL: Final = "⚑"
"""Before the caption of a cell that is marked as abnormal."""
KEPT: Final = 4000
"""Number of cached pictures."""
ZOOM_BUTTON_PX: Final = 32


class GalleryModel(QAbstractListModel):
    """Sorted cells with the pictures loaded so far; the list grows while scrolling."""

    def __init__(self, loader: CutoutLoader) -> None:
        super().__init__()
        self._loader = loader
        self._pictures: OrderedDict[int, QIcon] = OrderedDict()
        self._captions: Callable[[int], tuple[str, str]] = lambda cell: (str(cell), "")
        self._shown, self._side = 0, SIDE_PX
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self._blank = _blank_icon()
        loader.loaded.connect(self._on_loaded)

    def show_cells(self, ids: NDArray[np.int64], captions: Callable[[int], tuple[str, str]]) -> None:
        """Show these cells; `captions` returns text and tooltip by id."""
        self.beginResetModel()
        self.ids, self._captions = ids, captions
        self._shown = min(len(ids), PAGE)
        self.endResetModel()

    def forget_pictures(self, side: int | None = None) -> None:
        """Drop all pictures: image or cells changed, or they get another side."""
        self._side = side or self._side
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
            self._pictures[cell] = icon_of(picture, self._side)
        while len(self._pictures) > KEPT * SIDE_PX**2 // self._side**2:
            self._pictures.popitem(last=False)
        rows = np.flatnonzero(np.isin(self.ids[: self._shown], list(pictures)))
        for row in rows.tolist():
            self.dataChanged.emit(self.index(row), self.index(row), [Qt.ItemDataRole.DecorationRole])


class Gallery(QListView):
    """The grid: cells are marked by click, Ctrl- or Shift-click or rubber band; a double click goes to a cell."""

    cell_chosen = Signal(object)  # keys of other layers do not fit into the 32 bits of Qt's int
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
        self.setToolTip(
            "Mark the wrong ones and press the key of their class. Double click: go to the cell. Ctrl and the wheel, "
            "or + and −: larger or smaller"
        )
        self.doubleClicked.connect(lambda index: self.cell_chosen.emit(int(index.data(Qt.ItemDataRole.UserRole))))
        selection = self.selectionModel()
        if selection is not None:
            selection.selectionChanged.connect(lambda *_: self.marked.emit())

    @property
    def cells(self) -> GalleryModel:
        """The cells that are listed."""
        return self._model

    def use(self, layers: Sequence[tuple[Labels, Image | None]]) -> None:
        """Take pictures from these cells and their images."""
        self.loader.use(layers)
        self._model.forget_pictures()

    def zoom(self, by: int) -> None:
        """Make the pictures larger (1) or smaller (−1)."""
        place = SIDES_PX.index(self.iconSize().width()) + by
        side = SIDES_PX[min(max(place, 0), len(SIDES_PX) - 1)]
        if side != self.iconSize().width():
            self._model.forget_pictures(side)
            self.setIconSize(QSize(side, side))
            self.setGridSize(CELL_PX + QSize(side - SIDE_PX, side - SIDE_PX))

    def cells_in_sight(self) -> list[int]:
        """Return the keys of the cells whose pictures are in sight, in order."""
        viewport = self.viewport()
        found = []
        for row in range(self._model.rowCount() if viewport is not None else 0):
            index = self._model.index(row)
            if viewport is not None and viewport.rect().contains(self.visualRect(index).center()):
                found.append(int(index.data(Qt.ItemDataRole.UserRole)))
        return found

    def wheelEvent(self, event: QWheelEvent | None) -> None:
        """Zoom with Ctrl, else scroll."""
        if event is not None and event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoom(1 if event.angleDelta().y() > 0 else -1)
            return
        super().wheelEvent(event)

    def marked_cells(self) -> list[int]:
        """Return the keys of the marked cells."""
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
        if text in ("+", "-"):
            self.zoom(1 if text == "+" else -1)
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
        for key, (box, plane) in self._places.items():
            try:
                pictures[key] = cut_with_surroundings(self._image, self._cells, key % PER_LAYER, box, plane)
            except (BloodCellError, OSError, ValueError, IndexError, RuntimeError):
                pictures[key] = np.zeros((8, 8, 3), np.uint8)
        self.signals.cut.emit(pictures)


class CutoutLoader(QObject):
    """Cuts requested cells in a thread, the latest request first."""

    loaded = Signal(object)
    """dict of int to ndarray of uint8, shape (h, w, 3): square pictures by id."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._layers: list[tuple[Labels, Image | None]] = []
        self._wanted: list[int] = []
        self._running: _Cut | None = None

    def use(self, layers: Sequence[tuple[Labels, Image | None]]) -> None:
        """Cut from these cells and their images; earlier requests are dropped."""
        self._layers = list(layers)
        self._wanted.clear()
        self._running = None

    def ask(self, cell: int) -> None:
        """Request the picture of a cell."""
        if cell not in self._wanted:
            self._wanted.append(cell)
            del self._wanted[:-200]  # pictures scrolled past are requested again when seen
        self._next()

    def _next(self) -> None:
        if self._running is not None or not self._wanted:
            return
        number = self._wanted[-1] // PER_LAYER
        batch = [key for key in self._wanted[-BATCH:][::-1] if key // PER_LAYER == number]
        self._wanted = [key for key in self._wanted if key not in batch]
        cells, image = self._layers[number] if number < len(self._layers) else (None, None)
        if cells is None or image is None:
            return
        labels = full_resolution(cells)
        places = places_of(cells.features, [key % PER_LAYER for key in batch], labels.shape[:-2])
        by_key = {number * PER_LAYER + cell: place for cell, place in places.items()}
        self._running = _Cut(image_source(image), labels, by_key)
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
    cell_chosen = Signal(object)
    scope_changed = Signal()
    """Cells of one image are to be shown, or of all."""

    def __init__(self) -> None:
        super().__init__()
        self._layers: list[tuple[Labels, Image | None]] = []
        self._class, self._order, self._target = QComboBox(), QComboBox(), QComboBox()
        self._class.setToolTip("The class whose cells are shown")
        self._order.addItems([UNSURE_FIRST, SURE_FIRST])
        self._order.setToolTip("By the probability that the model gave; what was typed by hand counts as certain")
        self._target.setToolTip("The class that the marked cells are moved to")
        self.gallery, self.references = Gallery(), References()
        self._number_label = QLabel()
        self.everywhere = QCheckBox("All open images")
        self.everywhere.setToolTip("Show the cells of all open images together, not only of the one that is reviewed")
        self.smaller = make_button("−", "Smaller pictures; in the grid the key −, or Ctrl and the wheel")
        self.larger = make_button("+", "Larger pictures; in the grid the key +, or Ctrl and the wheel")
        for button in (self.smaller, self.larger):
            button.setFixedWidth(ZOOM_BUTTON_PX)
        self.confirm = make_button(
            "The rest of this page is right",
            "Confirm the class of all cells in sight but the marked ones, as a person's decision, and go on",
        )
        self.move_marked = make_button(
            "Move marked to", "Give the marked cells this class; in the grid the class's key does the same"
        )
        self.move_marked.setEnabled(False)
        above = fill(QHBoxLayout(), self._class, self._order, stretched=[self._class, self._order])
        below = fill(QHBoxLayout(), self.move_marked, self._target, stretched=[self._target])
        scope = fill(QHBoxLayout(), self.everywhere, self.smaller, self.larger, stretched=[self.everywhere])
        parts = (above, scope, self.references, self.gallery, self._number_label, self.confirm, below)
        fill_column(self, *parts, stretched=self.gallery, top=6)
        self._class.currentIndexChanged.connect(lambda _: self.refresh())
        self._order.currentIndexChanged.connect(lambda _: self.refresh())
        self.everywhere.toggled.connect(lambda _: self.scope_changed.emit())
        self.smaller.clicked.connect(lambda: self.gallery.zoom(-1))
        self.larger.clicked.connect(lambda: self.gallery.zoom(1))
        self.confirm.clicked.connect(self._on_confirm)
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

    def use(self, layers: Sequence[tuple[Labels, Image | None]]) -> None:
        """Show cells of these layers, the first of which is reviewed, with their images."""
        self._layers = list(layers)
        self.gallery.use(layers)
        self.refresh()

    def by_layer(self, keys: Iterable[int]) -> list[tuple[Labels, list[int]]]:
        """Return the ids of cells by their layer, given their keys."""
        found: dict[int, list[int]] = {}
        for key in keys:
            found.setdefault(key // PER_LAYER, []).append(key % PER_LAYER)
        return [(self._layers[number][0], ids) for number, ids in found.items() if number < len(self._layers)]

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
        if not self._layers:
            return
        features = self._layers[0][0].features
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
        keys, orders = [np.empty(0, np.int64)], [np.empty(0)]
        for number, (layer, _image) in enumerate(self._layers):
            if "cell_type" in layer.features.columns:
                rows = np.flatnonzero(is_called(layer.features, self.cell_type))
                keys.append(layer.features[INDEX].to_numpy(np.int64)[rows] + number * PER_LAYER)
                orders.append(self._order_of(layer.features, rows))
        return np.asarray(np.concatenate(keys)[np.argsort(np.concatenate(orders), kind="stable")], np.int64)

    def _order_of(self, features: pd.DataFrame, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return by what some rows are sorted."""
        certain = certainty_of(features, self.cell_type)[rows]
        return np.asarray(-certain if self._order.currentText() == SURE_FIRST else certain, np.float64)

    def _place_of(self, probability: float) -> int:
        """Return the row for a cell of this probability."""
        keys = self.gallery.cells.ids
        if len(keys) > FEW or len(self._layers) > 1:
            return 0
        features = self._layers[0][0].features
        place = -probability if self._order.currentText() == SURE_FIRST else probability
        return int(np.searchsorted(self._order_of(features, rows_of(features, keys)), place))

    def _caption(self, key: int) -> tuple[str, str]:
        (layer, _image), cell = self._layers[key // PER_LAYER], key % PER_LAYER
        features = layer.features
        rows = rows_of(features, [cell])
        if not len(rows):
            return "", f"cell {cell} is gone"
        row, source = int(rows[0]), "subtype_source" if split_name(self.cell_type)[1] else "type_source"
        probability = certainty_of(features, self.cell_type)[row]
        by_hand = source in features.columns and features[source].iat[row] == "user"
        short = "by hand" if by_hand else f"{100 * probability:.1f} %" if np.isfinite(probability) else "–"
        if "abnormal" in features.columns and features["abnormal"].iat[row]:
            short = f"{ABNORMAL} {short}"
        where = f"{layer.name}: " if len(self._layers) > 1 else ""
        return short, where + describe_cell(layer, cell)

    def _on_confirm(self) -> None:
        marked = self.gallery.marked_cells()
        self.move_wanted.emit([key for key in self.gallery.cells_in_sight() if key not in marked], self.cell_type)
        self.refresh()  # what was confirmed is certain now
        if self._order.currentText() == UNSURE_FIRST:
            self.gallery.scrollToTop()

    def _on_marked(self) -> None:
        self.move_marked.setEnabled(bool(self.gallery.marked_cells()))
        self._show_number()

    def _show_number(self) -> None:
        n, marked = len(self.gallery.cells.ids), len(self.gallery.marked_cells())
        self._number_label.setText(f"{n:,} cell{'' if n == 1 else 's'}" + (f", {marked:,} marked" if marked else ""))
