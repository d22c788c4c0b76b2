"""The parts of the Count dock that are no plot: settings, the table of counts, fields for thresholds and a range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qtpy.QtCore import QEvent, QObject, QSize, Qt, Signal
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.errors import InputError
from napari_bloodcell.widgets._errors import notify_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


ENOUGH_PX: Final = 350
"""Every dock can be read at this width; what asks for more has not got its style yet."""


class AreaFields(QWidget):
    """Thresholds and a range of areas as text, for those who do not use the mouse."""

    thresholds_entered = Signal(object)
    """Rising areas, list of float; None for those of the rule."""
    range_entered = Signal(float, float)
    range_cleared = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._factor = 1.0
        self._labels = QLabel(), QLabel()
        self._thresholds = QLineEdit()
        self._thresholds.setToolTip(
            "Areas from which a region counts as 2, 3, 4, … cells. Drag them in the plot, or type: 70, 110"
        )
        self._thresholds.setPlaceholderText("none")
        self._automatic = QPushButton("Auto")
        self._automatic.setToolTip("Take the thresholds of the rule again")
        self._automatic.setEnabled(False)
        self._range = QLineEdit()
        self._range.setToolTip("Select the red cells whose area lies in a range. Drag in the plot, or type: 30–50")
        self._range.setPlaceholderText("drag in the plot")
        self._clear = QPushButton("Clear")
        self._clear.setToolTip("Select no cell")
        self._clear.setEnabled(False)
        self._found = QLabel()
        layout = QFormLayout()
        layout.setContentsMargins(0, 0, 0, 0)
        rows = QHBoxLayout(), QHBoxLayout()
        for row, field, button in zip(
            rows, (self._thresholds, self._range), (self._automatic, self._clear), strict=True
        ):
            row.addWidget(field, 1)
            row.addWidget(button)
        layout.addRow(self._labels[0])
        layout.addRow(rows[0])  # all of the width: there are four or five of them
        layout.addRow(self._labels[1], rows[1])
        whole = QVBoxLayout(self)
        whole.setContentsMargins(0, 0, 0, 0)
        whole.addLayout(layout)
        whole.addWidget(self._found)
        self._found.hide()
        self._thresholds.editingFinished.connect(self._on_thresholds)
        self._range.editingFinished.connect(self._on_range)
        self._automatic.clicked.connect(lambda: self.thresholds_entered.emit(None))
        self._clear.clicked.connect(lambda: self.range_cleared.emit())

    def use_unit(self, pixel_size_um: float | None) -> None:
        """Show and take areas in µm² where the size of a pixel is known, else in pixels²."""
        self._factor = pixel_size_um**2 if pixel_size_um else 1.0
        for label, text in zip(self._labels, ("Thresholds", "Select"), strict=True):
            label.setText(f"{text} ({'µm²' if pixel_size_um else 'px²'})")

    def show_thresholds(self, thresholds: NDArray[Any] | Sequence[float], *, by_hand: bool) -> None:
        """Show the thresholds in use, pixels²."""
        self._thresholds.setText(", ".join(self._text(t) for t in thresholds))
        self._thresholds.setModified(False)
        self._thresholds.setCursorPosition(0)
        self._automatic.setEnabled(by_hand)

    def show_range(self, low: float | None, high: float | None, *, n_cells: int = 0) -> None:
        """Show which areas, pixels², are selected, and how many cells that are."""
        is_range = low is not None and high is not None
        self._range.setText(f"{self._text(low or 0.0)}–{self._text(high or 0.0)}" if is_range else "")
        self._range.setModified(False)
        self._clear.setEnabled(is_range)
        self._found.setVisible(is_range)
        self._found.setText(f"{n_cells:,} red-cell region{'' if n_cells == 1 else 's'} selected")

    def _on_thresholds(self) -> None:
        if self._thresholds.isModified():
            self._thresholds.setModified(False)
            notify_errors(lambda: self.thresholds_entered.emit(sorted(self._areas(self._thresholds.text()))))

    def _on_range(self) -> None:
        if not self._range.isModified():
            return
        self._range.setModified(False)
        if not self._range.text().strip():
            self.range_cleared.emit()
        else:
            notify_errors(self._enter_range)

    def _enter_range(self) -> None:
        ends = self._areas(self._range.text().replace("–", " ").replace("-", " "))
        if len(ends) != 2:
            raise InputError(f"{self._range.text()!r} is no range of areas; type two numbers: 30–50")
        self.range_entered.emit(min(ends), max(ends))

    def _text(self, area: float) -> str:
        """Return an area, pixels², as text in the unit that is shown."""
        return f"{area * self._factor:.{0 if area * self._factor >= 100 else 1}f}"

    def _areas(self, text: str) -> list[float]:
        return [number / self._factor for number in _numbers(text)]


class Scrolled(QScrollArea):
    """At least as wide as what is in it: nothing is cut off at the right."""

    def __init__(self, inside: QWidget) -> None:
        super().__init__()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidgetResizable(True)
        self.setWidget(inside)

    def minimumSizeHint(self) -> QSize:
        usual, inside = super().minimumSizeHint(), self.widget()
        bar = self.verticalScrollBar()
        if inside is None or bar is None:
            return usual
        width = inside.minimumSizeHint().width() + bar.sizeHint().width()
        return QSize(min(width, ENOUGH_PX), usual.height())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:
        """Ask for another width when what is in it changes."""
        if event is not None and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


def scrolled(inside: QWidget) -> QScrollArea:
    """Return a frame in which this scrolls up and down where the window is low."""
    return Scrolled(inside)


def align_labels(dock: QWidget) -> None:
    """Give the labels of all forms in a dock one width, so that their fields begin at one line."""
    labels = []
    for layout in dock.findChildren(QFormLayout):
        items = (layout.itemAt(i, QFormLayout.ItemRole.LabelRole) for i in range(layout.rowCount()))
        labels += [item.widget() for item in items if item is not None]
    found = [label for label in labels if label is not None]
    width = max((label.sizeHint().width() for label in found if label.isVisibleTo(dock)), default=0)
    for label in found:
        label.setMinimumWidth(width)


def _numbers(text: str) -> list[float]:
    """Return the numbers of a text, parted by commas or blanks."""
    try:
        numbers = [float(part) for part in text.replace(",", " ").replace(";", " ").split()]
    except ValueError:
        numbers = [-1.0]
    if not all(0 < n < float("inf") for n in numbers):
        raise InputError(f"{text!r} does not hold areas; type numbers above 0, parted by commas.")
    return numbers
