"""Reference pictures of a kind, beside the gallery, with their source."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QHBoxLayout, QLabel, QWidget

from napari_bloodcell.core.cells import KINDS, RBC, WBC, split_name
from napari_bloodcell.napari.docks.base import fill, fill_column

FOLDER: Final = Path(__file__).parents[2] / "data"
SIDE_PX: Final = 72
"""Of a picture in the sheets that `training.make_references` makes: a row per kind."""
SHOWN_PX: Final = 42
LINK: Final = "#3b82f6"
"""A blue that can be read in both themes; Qt's own cannot on a dark ground."""
SOURCES: Final = {
    WBC: ("PBC, Acevedo et al. 2020, CC BY 4.0", "https://doi.org/10.1016/j.dib.2020.105474"),
    RBC: ("Chula RBC-12, Naruenatthanaset et al. 2021, MIT", "https://arxiv.org/abs/2012.01321"),
}


@lru_cache(maxsize=2)
def _sheet(cell_type: str) -> NDArray[np.uint8]:
    with Image.open(FOLDER / f"kinds_{cell_type}.jpg") as sheet:
        return np.asarray(sheet.convert("RGB"))


def reference_pictures(name: str) -> list[NDArray[np.uint8]]:
    """Return pictures (72, 72, 3) uint8 of a kind by its full name; none where there are no free ones."""
    cell_type, kind = split_name(name)
    if cell_type not in SOURCES or kind not in KINDS[cell_type]:
        return []
    top = KINDS[cell_type].index(kind) * SIDE_PX
    row = _sheet(cell_type)[top : top + SIDE_PX]
    pictures = [row[:, x : x + SIDE_PX] for x in range(0, row.shape[1], SIDE_PX)]
    return [picture for picture in pictures if np.ptp(picture) > 32]  # empty places are plain grey


class References(QWidget):
    """What a kind looks like elsewhere; hidden for classes, and for kinds without free pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[QLabel] = []
        self._row = QHBoxLayout()
        self._row.setSpacing(4)
        self.source = QLabel()
        self.source.setOpenExternalLinks(True)
        self.source.setWordWrap(True)
        self.source.setTextFormat(Qt.TextFormat.RichText)
        fill_column(self, fill(self._row), self.source)
        self._row.addStretch(1)
        self.hide()

    def show_kind(self, name: str) -> None:
        """Show pictures of a kind by its full name."""
        found = reference_pictures(name)
        for label in self.pictures:
            self._row.removeWidget(label)
            label.deleteLater()
        self.pictures = []
        for picture in found:
            label = QLabel()
            image = QImage(picture.tobytes(), SIDE_PX, SIDE_PX, 3 * SIDE_PX, QImage.Format.Format_RGB888)
            mode = Qt.TransformationMode.SmoothTransformation
            label.setPixmap(QPixmap.fromImage(image).scaledToWidth(SHOWN_PX, mode))
            label.setAccessibleName(f"Reference picture of {name}")
            self._row.insertWidget(len(self.pictures), label)
            self.pictures.append(label)
        if found:
            text, link = SOURCES[split_name(name)[0]]
            self.source.setText(f'<small>Elsewhere: <a href="{link}" style="color: {LINK}">{text}</a></small>')
        self.setVisible(bool(found))
