"""Where the results of a slide go: a row of the docks that analyse, for images that are better analysed on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QMessageBox, QToolButton, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.files import expanded
from napari_bloodcell.napari.docks.plain import plain
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.results.files import RECIPE, SLIDE
from napari_bloodcell.results.store import read_result

if TYPE_CHECKING:
    from napari.layers import Image

    from napari_bloodcell.core.params import Recipe


def is_large(layer: Image) -> bool:
    """Return whether an image layer shows one plane that is too large to be analysed in memory."""
    return image_source(layer).is_large


class SlideFolder(QWidget):
    """A folder by its path, or by a dialog; one for each layer. Empty: the image is analysed in memory."""

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
        browse = QToolButton()
        browse.setText("…")
        browse.setToolTip("Choose the folder")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._text, 1)
        row.addWidget(browse)
        browse.clicked.connect(self._on_browse)
        self._text.textChanged.connect(self._on_text)

    def follow(self, layer: Image | None) -> bool:
        """Turn to an image, and return whether it may be analysed on disk: it is a pyramid, or large."""
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
        """Return the folder, asked for by a dialog where there is none yet and it is required."""
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
    """Return whether a slide may be analysed into a folder; the user is asked before a result there is replaced.

    Raises
    ------
    InputError
        If the folder holds something that must not be replaced: the result of a small image, or corrections by hand.
    """
    if not (folder / RECIPE).is_file():
        return True
    if not (folder / SLIDE).is_file():
        raise InputError(f"{folder} holds the result of another image. Choose another folder.")
    found = read_result(folder)
    if recipe.allows(found.recipe) and found.cells.shape == image_source(layer).shape:
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
