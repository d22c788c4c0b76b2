"""Pictures of cells for lists, made in a thread when they are about to be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from qtpy.QtCore import QObject, QRunnable, QThreadPool, Signal

from napari_bloodcell.errors import BloodCellError
from napari_bloodcell.widgets._cell_features import PLANE, boxes_in, rows_of
from napari_bloodcell.widgets._images import image_source
from napari_bloodcell.widgets._layers import full_resolution

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd
    from napari.layers import Image, Labels
    from numpy.typing import NDArray

    from napari_bloodcell.widgets._images import ImageSource

MARGIN: Final = 0.25
"""Of the cell's box, on each side: what lies around it helps to tell what it is."""
DIMMED: Final = 0.55
"""What is not the cell keeps this share of its light."""
BATCH: Final = 12
"""Pictures that a thread makes before it tells."""


@dataclass(frozen=True, eq=False)
class _Sources:
    """What pictures are cut from, as it was when it was asked for."""

    image: ImageSource
    cells: Any
    places: dict[int, tuple[tuple[int, int, int, int], tuple[int, ...]]]


class _Signals(QObject):
    cut = Signal(object)
    """dict of int to ndarray of uint8, shape (h, w, 3)."""


class _Cut(QRunnable):
    """Cuts some cells."""

    def __init__(self, sources: _Sources) -> None:
        super().__init__()
        self.signals = _Signals()
        self._sources = sources

    def run(self) -> None:
        """Cut, and tell; a picture that cannot be read is black."""
        pictures = {}
        for cell, (box, plane) in self._sources.places.items():
            try:
                pictures[cell] = cut_with_surroundings(self._sources.image, self._sources.cells, cell, box, plane)
            except (BloodCellError, OSError, ValueError, IndexError, RuntimeError):
                pictures[cell] = np.zeros((8, 8, 3), np.uint8)
        self.signals.cut.emit(pictures)


class CutoutLoader(QObject):
    """Cuts the cells of a layer that are asked for, the last ones first; `loaded` tells of each."""

    loaded = Signal(object)
    """dict of int to ndarray of uint8, shape (h, w, 3): square pictures by id."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._cells: Labels | None = None
        self._image: Image | None = None
        self._wanted: list[int] = []
        self._running: _Cut | None = None

    def use(self, cells_layer: Labels | None, image_layer: Image | None) -> None:
        """Cut from these layers; what was asked for before is forgotten."""
        self._cells, self._image = cells_layer, image_layer
        self._wanted.clear()
        self._running = None

    def ask(self, cell: int) -> None:
        """Ask for the picture of a cell."""
        if cell not in self._wanted:
            self._wanted.append(cell)
            del self._wanted[:-200]  # what was scrolled over quickly is asked for again when it is seen
        self._next()

    def _next(self) -> None:
        if self._running is not None or not self._wanted or self._cells is None or self._image is None:
            return
        batch = self._wanted[-BATCH:][::-1]
        del self._wanted[-BATCH:]
        features, labels = self._cells.features, full_resolution(self._cells)
        places = places_of(features, batch, labels.shape[:-2])
        self._running = _Cut(_Sources(image_source(self._image), labels, places))
        self._running.signals.cut.connect(self._on_cut)
        pool = QThreadPool.globalInstance()
        if pool is not None:
            pool.start(self._running)

    def _on_cut(self, pictures: dict[int, NDArray[np.uint8]]) -> None:
        if self._running is None or self.sender() is not self._running.signals:
            return  # of layers that are not looked at any more
        self._running = None
        self.loaded.emit(pictures)
        self._next()


def places_of(
    features: pd.DataFrame, ids: list[int], stack: tuple[int, ...]
) -> dict[int, tuple[tuple[int, int, int, int], tuple[int, ...]]]:
    """Return box (y0, x0, y1, x1) and plane of cells by id; those without a box are left out."""
    places = {}
    for cell in ids:
        rows = rows_of(features, [cell])
        boxes = boxes_in(features, rows)
        if boxes is None or not len(rows):
            continue
        plane: tuple[int, ...] = ()
        if stack and PLANE in features.columns:
            plane = tuple(int(i) for i in np.unravel_index(int(features[PLANE].to_numpy(np.int64)[rows[0]]), stack))
        y0, x0, y1, x1 = (int(v) for v in boxes[0])
        places[cell] = (y0, x0, y1, x1), plane
    return places


def cut_with_surroundings(
    image: ImageSource, cells: Any, cell: int, box: tuple[int, int, int, int], plane: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    """Return a square picture of a cell, (h, h, 3) uint8, in which what is not the cell is dimmed."""
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
