"""The Workbench: all docks as tabs of one, over the list of the images that are open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary, ref

import napari.viewer
import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.events import Event
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QCloseEvent, QIcon, QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QListWidget, QListWidgetItem, QSizePolicy, QTabWidget, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.docks.analyse import AnalyseWidget
from napari_bloodcell.napari.docks.base import Dock, PlainLabel, Watched, fill, fill_column, make_button
from napari_bloodcell.napari.docks.count.dock import CountWidget
from napari_bloodcell.napari.docks.count.report import ask_for_report
from napari_bloodcell.napari.docks.edit.dock import EditWidget
from napari_bloodcell.napari.docks.review.dock import ReviewWidget
from napari_bloodcell.napari.docks.train.dock import TrainWidget
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import by_hand
from napari_bloodcell.napari.notify import notifying
from napari_bloodcell.napari.preferences import PLUGIN
from napari_bloodcell.napari.window import active_cells, save_result_of

PAGES: Final[dict[str, Callable[..., Dock]]] = {
    "Analyse": AnalyseWidget,
    "Review": ReviewWidget,
    "Edit cells": EditWidget,
    "Count": CountWidget,
    "Train": TrainWidget,
}
SOON_MS: Final = 200
"""Changes of the cells within this time refresh the list once."""
THUMBNAIL_PX: Final = 32
"""Side of napari's thumbnails."""
MOST_ROWS: Final = 4
"""More images than this scroll."""
WELCOME: Final = (
    "Drop a picture of a blood smear into the window, or open the sample. Analyse finds, types and counts its cells; "
    "look whether the outlines fit, correct what is wrong in Review and Edit cells, and Save the result."
)
_was_visible: WeakKeyDictionary[Layer, bool] = WeakKeyDictionary()
"""Layers that are hidden because another image is looked at."""


class WorkbenchWidget(Dock):
    """One image is looked at at a time; its group of layers alone is shown."""

    pages: ClassVar = tuple(PAGES)
    """Names of the docks that it holds."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._listed: list[ref[Image]] = []
        self._newest: ref[Image] | None = None  # an image that was opened, and not looked at yet
        self.images = QListWidget()
        self.images.setAccessibleName("Images")
        self.images.setToolTip("The open images: choosing one shows it alone, with its cells")
        self.images.setIconSize(QSize(THUMBNAIL_PX, THUMBNAIL_PX))
        self.back = make_button("◀ Back", "Go to the image before", notifying(self.go_back))
        self.next = make_button("Next ▶", "Go to the next image", notifying(self.go_on))
        self.welcome = PlainLabel(WELCOME)
        self.sample = make_button("Open the sample", "A synthetic smear that comes with the program")
        self.sample.clicked.connect(notifying(self.open_sample))
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for name in PAGES:
            page = QWidget()
            fill_column(page)
            self.tabs.addTab(page, name.partition(" ")[0])
        self.save = make_button("Save result", "Save the image with its cells and numbers in a folder; Ctrl+S")
        self.save.clicked.connect(notifying(self.save_result))
        self.report = make_button("Report", "Save a page to print and to sign: numbers, pictures, who reviewed, models")
        self.report.clicked.connect(notifying(self.save_report))
        row = fill(QHBoxLayout(), self.back, self.next)
        self._below = QWidget()
        ends = fill(QHBoxLayout(self._below), self.save, self.report, stretched=[self.save, self.report])
        ends.setContentsMargins(0, 0, 0, 0)
        parts = (self.welcome, self.sample, self.images, row, self.tabs, self._below)
        self._column = fill_column(self, *parts, stretched=self.tabs)  # no margins: each tab has its own
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self._on_time)
        self.tabs.currentChanged.connect(self._on_tab)
        self.images.currentRowChanged.connect(self._on_row)
        self.images.itemClicked.connect(notifying(self._on_click))  # on the current one too
        self._on_tab(0)
        self.wake()

    def page(self, name: str) -> Dock:
        """Show a tab, and return its dock, which is made the first time."""
        self.tabs.setCurrentIndex(list(PAGES).index(name))
        return self._dock(self.tabs.currentIndex())

    def docks(self) -> list[Dock]:
        """Return the docks that were made so far."""
        pages = (self.tabs.widget(i) for i in range(self.tabs.count()))
        return [dock for page in pages if page is not None for dock in page.findChildren(Dock)]

    def open_sample(self) -> None:
        """Open the smear that comes with the program."""
        self._viewer.open_sample(PLUGIN, "smear")

    def save_result(self) -> None:
        """Save the result that is looked at; raise `InputError` if there is none."""
        save_result_of(self._viewer, self._cells_to("save"), self)

    def save_report(self) -> None:
        """Save the report of the result that is looked at; raise `InputError` if there is none."""
        ask_for_report(self._viewer, self._cells_to("report"), self)

    def _cells_to(self, verb: str) -> Labels:
        cells = active_cells(self._viewer)
        if cells is None:
            raise InputError(f"There are no cells to {verb}. Analyse an image first.")
        return cells

    def go_back(self) -> None:
        """Look at the image before."""
        self._go(-1)

    def go_on(self) -> None:
        """Look at the next image."""
        self._go(1)

    def look_at(self, image: Image) -> None:
        """Show an image with its own layers alone, and fit it into the window."""
        for layer in list(self._viewer.layers):
            owner = _image_of(self._viewer, layer)
            if owner is image and layer in _was_visible:
                layer.visible = _was_visible.pop(layer)
            elif owner is not None and owner is not image and layer not in _was_visible:
                _was_visible[layer] = layer.visible
                layer.visible = False
        self._viewer.layers.selection.active = links.cells_layer_for(self._viewer, image) or image
        self._viewer.reset_view(layers=[image])

    def refresh(self) -> None:
        """List the images anew."""
        images = [layer for layer in self._viewer.layers if isinstance(layer, Image)]
        self._listed = [ref(image) for image in images]
        self.images.blockSignals(True)
        self.images.clear()
        for image in images:
            self.images.addItem(QListWidgetItem(_icon_of(image), f"{image.name}\n{_told(self._viewer, image)}"))
        self.images.blockSignals(False)
        self._on_active()
        row_px = self.images.sizeHintForRow(0) if images else 0
        self.images.setFixedHeight(row_px * min(len(images), MOST_ROWS) + 2 * self.images.frameWidth() + 2)
        shown: dict[QWidget, bool] = {self.welcome: not images, self.sample: not images}
        shown |= {self.images: bool(images), self._below: bool(images)}
        for widget, is_visible in shown.items():
            widget.setVisible(is_visible)
        for button in (self.back, self.next):
            button.setVisible(len(images) > 1)

    def watched(self) -> Watched:
        """Yield what changes the list."""
        layers = self._viewer.layers
        for name in ("inserted", "removed", "reordered"):
            yield getattr(layers.events, name), self._on_layers
        yield layers.selection.events.active, self._on_active
        for layer in layers:
            if isinstance(layer, Image):
                yield from ((layer.events[name], self._refresh_soon) for name in ("name", "thumbnail"))
            elif links.is_cells(layer):
                yield layer.events.features, self._refresh_soon

    def on_wake(self) -> None:
        """List the images."""
        self.refresh()

    def on_rest(self) -> None:
        """Wait for nothing."""
        self._soon.stop()

    def closeEvent(self, event: QCloseEvent | None) -> None:
        """Close the tabs too."""
        super().closeEvent(event)
        self._let_go()

    def changeEvent(self, event: QEvent | None) -> None:
        """Close the tabs too when napari removes the dock."""
        super().changeEvent(event)
        if event is not None and event.type() == QEvent.Type.ParentChange and self.parent() is None:
            self._let_go()

    def _let_go(self) -> None:
        for dock in self.docks():
            dock.rest()
            if dock.panel is not None:
                dock.panel.work.abandon()

    def _dock(self, index: int) -> Dock:
        page: Any = self.tabs.widget(index)
        found: Dock | None = page.findChild(Dock)
        if found is None:
            found = list(PAGES.values())[index](self._viewer)
            page.layout().addWidget(found)
            self._below.setParent(None)  # so that the Tab key reaches it last, as it lies below
            self._column.addWidget(self._below)
            self._below.setVisible(bool(self._listed))
        return found

    def _on_tab(self, index: int) -> None:
        self._dock(index)

    def _on_layers(self, event: Event) -> None:
        if event.type == "inserted" and isinstance(event.value, Image):
            self._newest = ref(event.value)
        self.watch()
        self._refresh_soon()

    def _refresh_soon(self, _event: object = None) -> None:
        if not self.is_resting:
            self._soon.start()

    def _on_time(self) -> None:
        """List the images, and look at one that was just opened."""
        self.refresh()
        image, self._newest = self._newest() if self._newest is not None else None, None
        if image is not None and image in self._viewer.layers and len(self._listed) > 1:
            self.look_at(image)

    def _on_active(self, _event: object = None) -> None:
        """Point at the image that the active layer belongs to."""
        image = _image_of(self._viewer, self._viewer.layers.selection.active)
        rows = [row for row, find in enumerate(self._listed) if find() is image and image is not None]
        self.images.blockSignals(True)
        self.images.setCurrentRow(rows[0] if rows else -1)
        self.images.blockSignals(False)

    def _on_row(self, row: int) -> None:
        image = self._listed[row]() if 0 <= row < len(self._listed) else None
        if image is not None and image in self._viewer.layers:
            self.look_at(image)

    def _on_click(self) -> None:
        self._on_row(self.images.currentRow())

    def _go(self, by: int) -> None:
        n = self.images.count()
        if n:
            self.images.setCurrentRow((max(self.images.currentRow(), 0 if by < 0 else -1) + by) % n)


def _image_of(viewer: ViewerModel, layer: Layer | None) -> Image | None:
    """Return the image that a layer is, or belongs to."""
    if isinstance(layer, Image):
        return layer
    info = links.info_of(layer)
    if info.get("kind") == "cells":
        return links.image_layer_for(viewer, layer)
    cells = [one for one in viewer.layers if links.is_cells(one) and str(one.unique_id) == info.get("cells_id")]
    return links.image_layer_for(viewer, cells[0]) if cells else None


def _told(viewer: ViewerModel, image: Image) -> str:
    """Return "2,080 cells, 12 typed by hand" of an image."""
    cells = links.cells_layer_for(viewer, image)
    if cells is None or not links.has_table(cells):
        return "not analysed yet"
    n, mine = len(cells.features) - 1, int(by_hand(cells.features).sum())
    return f"{n:,} cell{'' if n == 1 else 's'}" + (f", {mine:,} typed by hand" if mine else "")


def _icon_of(image: Image) -> QIcon:
    pixels = np.ascontiguousarray(image.thumbnail, np.uint8)
    height, width = pixels.shape[:2]
    picture = QImage(pixels.tobytes(), width, height, 4 * width, QImage.Format.Format_RGBA8888)
    return QIcon(QPixmap.fromImage(picture.scaled(THUMBNAIL_PX, THUMBNAIL_PX, Qt.AspectRatioMode.KeepAspectRatio)))
