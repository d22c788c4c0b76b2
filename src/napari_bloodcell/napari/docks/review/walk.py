"""A walk through the cells: in which order, through which class, forward and back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Final

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QWidget

from napari_bloodcell.core.cells import CENTROID, centroids_of
from napari_bloodcell.napari.docks.base import PlainLabel, fill, fill_column, form_rows, make_button
from napari_bloodcell.napari.layers.features import INDEX, PLANE, by_hand, certainty_of, is_called, places_of
from napari_bloodcell.napari.layers.links import full_resolution
from napari_bloodcell.napari.layers.look import describe_cell
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.session.session import CellsSession

EVERY: Final = "every class"
DOUBTFUL_BELOW: Final = 0.9
"""A cell whose type is less probable, by the model, is doubtful."""


class WalkControls(QWidget):
    """Order, class, Back and Next."""

    stepped = Signal(int)
    """1 for the next cell, −1 for the previous one."""
    changed = Signal()
    """Order or class changed."""

    def __init__(self) -> None:
        super().__init__()
        self._order = QComboBox()
        self._order.addItems([str(order) for order in Order])
        self._order.setToolTip("Which cells come first. Least certain: those whose type the model doubts most")
        self._class = QComboBox()
        self._class.addItem(EVERY)
        self._class.setToolTip("Look at the cells of one class only")
        self.back = make_button("◀ Back", "Go to the cell before; on the layers the key ,")
        self.next = make_button("Next ▶", "Go to the next cell; on the layers the key .")
        self.goes_on = QCheckBox("After a key go to the next")
        self.goes_on.setToolTip("When a key has given a class to the cell that was gone to, go to the next one")
        self.note, self.progress = PlainLabel(), PlainLabel()
        form = form_rows(Order=self._order, Of=self._class)
        fill_column(self, form, fill(QHBoxLayout(), self.back, self.next), self.goes_on, self.note, self.progress)
        self._order.currentIndexChanged.connect(lambda _: self.changed.emit())
        self._class.currentIndexChanged.connect(lambda _: self.changed.emit())
        self.back.clicked.connect(lambda: self.stepped.emit(-1))
        self.next.clicked.connect(lambda: self.stepped.emit(1))

    @property
    def order(self) -> Order:
        """The chosen order."""
        return list(Order)[self._order.currentIndex()]

    @property
    def cell_type(self) -> str | None:
        """The chosen class; None: all."""
        return self._class.currentText() if self._class.currentIndex() > 0 else None

    def choose(self, order: Order, cell_type: str | None = None) -> None:
        """Choose order and class."""
        self._order.setCurrentIndex(list(Order).index(order))
        self._class.setCurrentIndex(max(self._class.findText(cell_type or EVERY), 0))

    def show_progress(self, n_seen: int, n: int) -> None:
        """Show how many of the doubtful cells were seen."""
        told = f"{n_seen:,} of {n:,} doubtful cells seen (less than {100 * DOUBTFUL_BELOW:.0f} % sure)."
        self.progress.setText(told if n else "")

    def show_classes(self, names: Sequence[str]) -> None:
        """Offer these classes; the chosen one stays if it is among them."""
        if [self._class.itemText(i) for i in range(1, self._class.count())] == list(names):
            return
        before = self._class.currentText()
        self._class.blockSignals(True)
        self._class.clear()
        self._class.addItems([EVERY, *names])
        self._class.setCurrentIndex(max(self._class.findText(before), 0))
        self._class.blockSignals(False)
        if self._class.currentText() != before:
            self.changed.emit()


class Walk:
    """Walks through the cells of a review as its controls say."""

    def __init__(self, controls: WalkControls) -> None:
        self._controls, self._tour = controls, Tour()

    @property
    def cell(self) -> int:
        """The cell that was gone to; 0 if none was."""
        return int(self._tour.ids[self._tour.position]) if len(self._tour) and self._tour.position >= 0 else 0

    def forget(self) -> None:
        """Start over at the next step: cells, classes or order changed."""
        self._tour.clear()

    def step(self, session: CellsSession, by: int) -> None:
        """Go to the next cell (1) or the previous one (−1), skipping cells that are gone."""
        controls, tour = self._controls, self._tour
        if not len(tour):
            features = session.layer.features
            tour.start(
                ordered_cells(features, controls.order, cell_type=controls.cell_type, looked_at=session.looked_at)
            )
        for _ in range(len(tour)):
            if self.go_to(session, tour.step(by)):
                return
        controls.note.setText("There is no such cell left.")

    def go_to(self, session: CellsSession, cell: int) -> bool:
        """Centre the view on a cell, outline and describe it; return whether it exists."""
        layer = session.layer
        if not cell or not show_cell(session, cell):
            return False
        session.looked_at.add(cell)
        n, place = len(self._tour), ""
        if n and self._tour.ids[self._tour.position] == cell:
            place = f"{self._tour.position + 1:,} of {n:,} · "
        self._controls.note.setText(place + describe_cell(layer, cell))
        return True


ROW_PX: Final = 512
"""Reading order goes through rows of this height, left to right, so that the view moves little."""


class Order(StrEnum):
    """Which cells come first."""

    LEAST_CERTAIN = "Least certain first"
    LARGEST = "Largest area first"
    READING = "From top to bottom"
    NOT_LOOKED_AT = "Not yet looked at"


def ordered_cells(
    features: pd.DataFrame, order: Order, *, cell_type: str | None = None, looked_at: Collection[int] = ()
) -> NDArray[np.int64]:
    """Return the ids of cells in an order, of one type if it is given.

    `LEAST_CERTAIN` leaves out cells that a person typed, `NOT_LOOKED_AT` also those in `looked_at`.
    """
    if INDEX not in features.columns or "cell_type" not in features.columns:
        return np.empty(0, np.int64)
    ids = features[INDEX].to_numpy(np.int64)
    wanted = ids != 0
    if cell_type is not None:
        wanted &= is_called(features, cell_type)
    if order in (Order.LEAST_CERTAIN, Order.NOT_LOOKED_AT):
        wanted &= ~by_hand(features)
    if order is Order.NOT_LOOKED_AT and looked_at:
        wanted &= ~np.isin(ids, np.fromiter(looked_at, np.int64, len(looked_at)))
    rows = np.flatnonzero(wanted)
    return ids[rows[_rank(features, rows, order, cell_type)]]


def _rank(features: pd.DataFrame, rows: NDArray[np.intp], order: Order, name: str | None) -> NDArray[np.intp]:
    """Return the sort order of these rows, which hold cells called `name`; ties go by id."""
    if order is Order.LEAST_CERTAIN:
        return np.argsort(certainty_of(features, name)[rows], kind="stable")
    if order is Order.LARGEST:
        return np.argsort(-features["area_px"].to_numpy(np.float64)[rows], kind="stable")
    if CENTROID[0] not in features.columns:
        return np.arange(len(rows))
    y, x = centroids_of(features)[rows].T
    plane = features[PLANE].to_numpy(np.int64)[rows] if PLANE in features.columns else np.zeros(len(rows), np.int64)
    return np.lexsort((x, y // ROW_PX, plane))


def doubts_seen(session: CellsSession) -> tuple[int, int]:
    """Return how many of the cells that the model doubts a person has looked at or typed, and how many there are."""
    features = session.layer.features
    if "probability" not in features.columns:
        return 0, 0
    ids, typed = features[INDEX].to_numpy(np.int64), by_hand(features)
    is_doubtful = (features["probability"].to_numpy(np.float64) < DOUBTFUL_BELOW) & ~typed & (ids != 0)
    session.doubted = np.intersect1d(np.union1d(session.doubted, ids[is_doubtful]), ids)
    seen = np.isin(session.doubted, [*ids[typed].tolist(), *session.looked_at])
    return int(seen.sum()), len(session.doubted)


class Tour:
    """A way through cells, forward and back, that wraps around."""

    def __init__(self) -> None:
        self.ids: NDArray[np.int64] = np.empty(0, np.int64)
        self.position = -1

    def __len__(self) -> int:
        return len(self.ids)

    def start(self, ids: NDArray[np.int64]) -> None:
        """Start over with other cells, before the first one."""
        self.ids, self.position = ids, -1

    def clear(self) -> None:
        """Forget the cells."""
        self.start(np.empty(0, np.int64))

    def step(self, by: int) -> int:
        """Go forward (1) or back (−1) and return the id of the cell; 0 if there is none."""
        if not len(self.ids):
            return 0
        self.position = (max(self.position, 0 if by < 0 else -1) + by) % len(self.ids)
        return int(self.ids[self.position])


TOO_SMALL_PX: Final = 24.0
"""The view zooms in on a cell narrower than this on screen, which could not be judged."""
READABLE_PX: Final = 72.0
"""Width of the cell on screen after zooming in."""


def show_cell(session: CellsSession, cell: int) -> bool:
    """Centre the view on a cell and outline it, zooming in only if it is too small; return whether it exists."""
    layer = session.layer
    found = places_of(layer.features, [cell], full_resolution(layer).shape[:-2]).get(cell)
    if found is None:
        return False
    (y0, x0, y1, x1), plane = found
    show_place(session.viewer, layer, ((y0 + y1) / 2 - 0.5, (x0 + x1) / 2 - 0.5), max(y1 - y0, x1 - x0), plane)
    session.point_out(cell)
    return True


def show_place(
    viewer: ViewerModel, cells_layer: Labels, centre: tuple[float, float], width_px: float, plane: tuple[int, ...] = ()
) -> None:
    """Centre the view on (y, x), pixels of a layer, and zoom in if `width_px` would hardly be visible."""
    world = np.asarray(cells_layer.data_to_world((*plane, *centre)), np.float64)
    if plane:
        viewer.dims.set_point(range(len(plane)), world[: len(plane)])
    camera = camera_of(viewer)
    on_screen = width_px * float(np.abs(cells_layer.scale[-1])) * camera.zoom
    if on_screen < TOO_SMALL_PX:
        camera.zoom *= READABLE_PX / max(on_screen, 1e-9)
    camera.center = (camera.center[0], *(float(w) for w in world[-2:]))
