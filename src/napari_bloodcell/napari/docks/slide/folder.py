"""Where the results of a slide go: a row in the docks, for images that are better analysed on disk."""

from __future__ import annotations

from pathlib import Path
from weakref import WeakKeyDictionary

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QLineEdit, QMessageBox, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.core.params import Recipe
from napari_bloodcell.napari.docks.base import fill_column, plain, with_browse_button
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.results.files import RECIPE, SLIDE
from napari_bloodcell.results.store import read_result


def is_large(layer: Image) -> bool:
    """Return whether an image layer shows one plane too large for memory."""
    return image_source(layer).is_large


class SlideFolder(QWidget):
    """A folder, typed or chosen in a dialog, one per layer. Empty: analyse in memory."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._layer: Image | None = None
        self._paths: WeakKeyDictionary[Image, str] = WeakKeyDictionary()
        self._text = QLineEdit()
        self._text.setToolTip(
            "The folder that cells, table and counts of the slide are written to while they are found. "
            "Work that was stopped there goes on"
        )
        fill_column(self, with_browse_button(self._text, self._on_browse))
        self._text.textChanged.connect(self._on_text)

    def follow(self, layer: Image | None) -> bool:
        """Switch to an image; return whether it can be analysed on disk, being a pyramid or large."""
        self._layer = layer
        may_be = layer is not None and not image_source(layer).stack_shape and (layer.multiscale or is_large(layer))
        self._text.setPlaceholderText("choose a folder" if self.is_required else "in memory only")
        self._text.setText(self._paths.get(layer, "") if layer is not None else "")
        return bool(may_be)

    @property
    def is_required(self) -> bool:
        """Whether the image is too large for memory."""
        return self._layer is not None and is_large(self._layer)

    @property
    def path(self) -> Path | None:
        """The folder, or None."""
        text = self._text.text().strip()
        return expanded(text) if text else None

    def set_path(self, path: str | Path) -> None:
        """Choose a folder."""
        self._text.setText(str(path))

    def ask(self) -> Path | None:
        """Return the folder; open a dialog if it is required but missing."""
        if self.path is None and self.is_required:
            self._on_browse()
        return self.path

    def _on_browse(self) -> None:
        start = str(self.path or Path.cwd())
        chosen = QFileDialog.getExistingDirectory(self, "Folder for the results of the slide", start)
        if chosen:
            self.set_path(chosen)

    def _on_text(self, text: str) -> None:
        if self._layer is not None:
            self._paths[self._layer] = text
        self.changed.emit()


def may_write_into(parent: QWidget, folder: Path, layer: Image, recipe: Recipe) -> bool:
    """Return whether a slide may be analysed into a folder, asking the user before replacing a result.

    Raises `InputError` if the folder holds what must not be replaced: a small image's result, or corrections.
    """
    if not (folder / RECIPE).is_file():
        return True
    if not (folder / SLIDE).is_file():
        raise InputError(f"{folder} holds the result of another image. Choose another folder.")
    found = read_result(folder)
    if found.recipe == recipe and found.cells.shape == image_source(layer).shape:
        return True
    if found.is_corrected:
        raise InputError(
            f"{folder} holds a result that was corrected by hand, found with other settings. Choose another folder."
        )
    answer = QMessageBox.question(
        parent,
        "Replace the result?",
        plain(f"{folder}\nholds a result of {found.image_name!r} that was found with other settings. Replace it?"),
    )
    return bool(answer == QMessageBox.StandardButton.Yes)
