"""Watches a window: closing it asks about cells that are not saved, and Ctrl+S on a layer of a result saves it."""

from __future__ import annotations

from pathlib import Path
from weakref import ref

from napari.components import ViewerModel
from napari.layers import Image, Labels
from napari.utils.notifications import show_info
from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QKeyEvent, QKeySequence
from qtpy.QtWidgets import QApplication, QFileDialog, QMessageBox, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.event_loop import soon
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.private import main_window_of
from napari_bloodcell.napari.notify import is_in_event, notify_errors, notifying
from napari_bloodcell.napari.session.kept import kept_of
from napari_bloodcell.napari.writer import write_cells


class WindowWatch(QObject):
    """Filters the events of one main window, which owns it."""

    def __init__(self, viewer: ViewerModel, window: QWidget) -> None:
        super().__init__(window)
        self._viewer = ref(viewer)
        window.installEventFilter(self)

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Ask before the window closes, and take Ctrl+S where it means a result."""
        viewer = self._viewer()
        if event is None or viewer is None:
            return False
        if event.type() == QEvent.Type.Close and (event.spontaneous() or is_in_event()) and not self.may_close(viewer):
            event.ignore()
            return True
        if event.type() == QEvent.Type.ShortcutOverride and isinstance(event, QKeyEvent):
            if event.matches(QKeySequence.StandardKey.Save) and active_cells(viewer) is not None:
                event.accept()  # napari's own Ctrl+S would ask which file each layer is to become
                soon(notifying(self.save_active))
                return True
        return False

    def save_active(self) -> None:
        """Save the result that the active layer belongs to."""
        viewer = self._viewer()
        cells = active_cells(viewer) if viewer is not None else None
        if viewer is not None and cells is not None:
            save_result_of(viewer, cells, self._window())

    def may_close(self, viewer: ViewerModel) -> bool:
        """Ask what to do with cells that are not saved; return whether the window may close."""
        unsaved = [layer for layer in viewer.layers if isinstance(layer, Labels) and _is_unsaved(layer)]
        if not unsaved:
            return True
        names = ", ".join(repr(layer.name) for layer in unsaved[:5]) + (", …" if len(unsaved) > 5 else "")
        saves = ask(
            self._window(),
            "Save before closing?",
            f"These are not saved as a result: {names}.",
            yes="Save…",
            no="Close without",
            more="They are kept beside the journal, and can be brought back when the image is opened.",
        )
        if saves:
            return all(save_result_of(viewer, layer, self._window()) for layer in unsaved)
        return saves is not None

    def _window(self) -> QWidget | None:
        window = self.parent()
        return window if isinstance(window, QWidget) else None


def ask(parent: QWidget | None, title: str, text: str, *, yes: str, no: str, more: str = "") -> bool | None:
    """Ask a question with two answers, the first by default; return whether that was given, None: cancel."""
    box = QMessageBox(parent)
    box.setWindowTitle(title)
    box.setText(text)
    box.setInformativeText(more)
    first = box.addButton(yes, QMessageBox.ButtonRole.AcceptRole)
    second = box.addButton(no, QMessageBox.ButtonRole.DestructiveRole)
    box.addButton(QMessageBox.StandardButton.Cancel)
    box.setDefaultButton(first)
    box.exec()
    pressed = box.clickedButton()
    return True if pressed is first else False if pressed is second else None


def watch_window(viewer: ViewerModel) -> None:
    """Watch the window of a viewer from now on, if it has one."""
    window = main_window_of(viewer)
    if window is not None and window.findChild(WindowWatch) is None:
        WindowWatch(viewer, window)


def active_cells(viewer: ViewerModel) -> Labels | None:
    """Return the cells of the result that the active layer belongs to, or None."""
    layer = viewer.layers.selection.active
    if isinstance(layer, Image):
        return links.cells_layer_for(viewer, layer)
    if links.is_cells(layer):
        return layer if isinstance(layer, Labels) else None
    wanted = links.info_of(layer).get("cells_id")
    found = (one for one in viewer.layers if isinstance(one, Labels) and str(one.unique_id) == wanted)
    return next(found, None)


def save_result_of(viewer: ViewerModel, cells_layer: Labels, parent: QWidget | None) -> bool:
    """Save cells with their image as a result, into the same folder as before or a chosen one; return whether done."""
    image, kept = links.image_layer_for(viewer, cells_layer), kept_of(cells_layer)
    folder = kept.folder if kept is not None else None
    if folder is None:
        start = str(Path.home() / f"{links.info_of(cells_layer).get('image') or cells_layer.name} result")
        chosen, _ = QFileDialog.getSaveFileName(parent, "Save the result in a folder", start, "Result folder (*)")
        if not chosen:
            return False
        folder = Path(chosen)

    def save() -> None:
        if image is None:
            raise InputError(f"The image of {cells_layer.name!r} is gone: open it again to save the result.")
        write_cells(folder, cells_layer, image)

    QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
    try:
        is_done = notify_errors(save)
    finally:
        QApplication.restoreOverrideCursor()
    if is_done:
        show_info(f"Saved in {folder}.")
        if kept is not None:
            kept.note_saved(folder)
    return is_done


def _is_unsaved(layer: Labels) -> bool:
    kept = kept_of(layer)
    return kept is not None and not kept.is_saved
