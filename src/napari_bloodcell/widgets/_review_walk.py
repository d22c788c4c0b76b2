"""The way through the cells: in which order, of which class, back and on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from napari_bloodcell.widgets._review_order import Order, Tour, ordered_cells
from napari_bloodcell.widgets._review_view import show_cell
from napari_bloodcell.widgets._status import describe_cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_bloodcell.widgets._review_session import ReviewSession

EVERY: Final = "every class"


class WalkControls(QWidget):
    """Order, class, Back and Next."""

    stepped = Signal(int)
    """1 for the next cell, −1 for the one before."""
    changed = Signal()
    """Another order, or another class."""

    def __init__(self) -> None:
        super().__init__()
        self._order = QComboBox()
        self._order.addItems([str(order) for order in Order])
        self._order.setToolTip("Which cells come first. Least certain: those whose type the model doubts most")
        self._class = QComboBox()
        self._class.addItem(EVERY)
        self._class.setToolTip("Look at the cells of one class only")
        self.back = QPushButton("◀ Back")
        self.back.setToolTip("Go to the cell before; on the layers the key ,")
        self.next = QPushButton("Next ▶")
        self.next.setToolTip("Go to the next cell; on the layers the key .")
        self.told = QLabel()
        self.told.setWordWrap(True)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Order", self._order)
        form.addRow("Of", self._class)
        row = QHBoxLayout()
        row.addWidget(self.back)
        row.addWidget(self.next)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addLayout(row)
        layout.addWidget(self.told)
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
        """The chosen class; None: every one."""
        return self._class.currentText() if self._class.currentIndex() > 0 else None

    def choose(self, order: Order, cell_type: str | None = None) -> None:
        """Choose order and class."""
        self._order.setCurrentIndex(list(Order).index(order))
        self._class.setCurrentIndex(max(self._class.findText(cell_type or EVERY), 0))

    def show_classes(self, names: Sequence[str]) -> None:
        """Offer these classes; the chosen one stays, if it is among them."""
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
    """Goes through the cells of a review as its controls say."""

    def __init__(self, controls: WalkControls) -> None:
        self._controls, self._tour = controls, Tour()

    def forget(self) -> None:
        """Begin anew with the next step: cells, classes or the order are others."""
        self._tour.clear()

    def step(self, session: ReviewSession, by: int) -> None:
        """Go to the next cell (1) or the one before (−1); cells that are gone are passed over."""
        controls, tour = self._controls, self._tour
        if not len(tour):
            features = session.layer.features
            tour.start(
                ordered_cells(features, controls.order, cell_type=controls.cell_type, looked_at=session.looked_at)
            )
        for _ in range(len(tour)):
            if self.go_to(session, tour.step(by)):
                return
        controls.told.setText("There is no such cell left.")

    def go_to(self, session: ReviewSession, cell: int) -> bool:
        """Centre the view on a cell, outline it, and say what it is; return whether it is there."""
        layer = session.layer
        if not cell or not show_cell(session.viewer, layer, cell):
            return False
        session.looked_at.add(cell)
        n, place = len(self._tour), ""
        if n and self._tour.ids[self._tour.position] == cell:
            place = f"{self._tour.position + 1:,} of {n:,} · "
        self._controls.told.setText(place + describe_cell(layer, cell))
        return True
