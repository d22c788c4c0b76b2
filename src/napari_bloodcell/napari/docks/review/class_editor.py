"""The classes in the Review dock: colour, name, key, number of cells; the active one types clicked cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QHBoxLayout,
    QInputDialog,
    QPushButton,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.core.cells import BUILTIN_TYPES, UNIDENTIFIED
from napari_bloodcell.napari.docks.base import NarrowTable, swatch
from napari_bloodcell.napari.docks.plain import plain
from napari_bloodcell.napari.preferences import colour_of
from napari_bloodcell.napari.session.classes import key_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qtpy.QtGui import QShowEvent

    from napari_bloodcell.napari.session.classes import ClassList

MOST_ROWS: Final = 7
"""More classes than this scroll."""
HEADER: Final = (
    ("Class", "The active class types the cells that are clicked"),
    ("Key", "Types the cell under the mouse, the selected ones, or those marked in the gallery"),
    ("Cells", "How many cells have this class"),
)


class ClassTable(NarrowTable):
    """One class per row."""

    def __init__(self) -> None:
        super().__init__(HEADER, "Classes")
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)

    def show_classes(self, classes: ClassList, keys: Mapping[str, str], numbers: Mapping[str, int]) -> None:
        """Show these classes; the active one stays active."""
        active = self.active
        self.blockSignals(True)
        self.setRowCount(len(classes.names))
        for row, name in enumerate(classes.names):
            first = QTableWidgetItem(name)
            first.setToolTip(plain(name))
            first.setIcon(swatch(classes.colours.get(name) or colour_of(name, classes.names)))
            self.setItem(row, 0, first)
            for column, text in enumerate((key_of(name, keys), f"{numbers.get(name, 0):,}"), start=1):
                item = QTableWidgetItem(text)
                side = Qt.AlignmentFlag.AlignHCenter if column == 1 else Qt.AlignmentFlag.AlignRight
                item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | side)
                self.setItem(row, column, item)
        self.activate(active if active in classes.names else classes.names[0])
        self.blockSignals(False)
        self._fit()

    def show_numbers(self, numbers: Mapping[str, int]) -> None:
        """Update the numbers of cells."""
        for row in range(self.rowCount()):
            name, item = self.item(row, 0), self.item(row, 2)
            if name is not None and item is not None:
                item.setText(f"{numbers.get(name.text(), 0):,}")

    @property
    def active(self) -> str:
        """Name of the active class."""
        item = self.item(self.currentRow(), 0)
        return item.text() if item is not None else ""

    def activate(self, name: str) -> None:
        """Make a class active."""
        for row in range(self.rowCount()):
            item = self.item(row, 0)
            if item is not None and item.text() == name:
                self.setCurrentCell(row, 0)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Match the height to the rows in the window's style."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        header, rows = self.horizontalHeader(), min(self.rowCount(), MOST_ROWS)
        height = sum(self.rowHeight(i) for i in range(rows)) + 2 * self.frameWidth() + 2
        self.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))


class ClassEditor(QWidget):
    """The table, with buttons to add, rename, recolour and delete."""

    edited = Signal(str, object)
    """Name of a `CellsSession` method, and its arguments as a tuple."""
    wanted = Signal(str)
    """A class was double-clicked: type the selected cells."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ClassTable()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.table)
        row = QHBoxLayout()
        self.buttons: dict[str, QPushButton] = {}
        for text, tip, slot in (
            ("Add…", "Add a class of your own", self._on_add),
            ("Rename…", "Rename the class, and its cells with it", self._on_rename),
            ("Colour…", "Give the class another colour", self._on_colour),
            ("Delete", "Delete the class; its cells become unidentified", self._on_delete),
        ):
            button = self.buttons[text] = QPushButton(text)
            button.setToolTip(tip)
            button.clicked.connect(partial(_call, slot))
            row.addWidget(button)
        layout.addLayout(row)
        self.table.currentCellChanged.connect(self._on_row)
        self.table.cellDoubleClicked.connect(lambda *_: self.wanted.emit(self.table.active))

    def _on_row(self, *_rows: int) -> None:
        is_own = bool(self.table.active) and self.table.active not in (*BUILTIN_TYPES, UNIDENTIFIED)
        for text in ("Rename…", "Delete"):
            self.buttons[text].setEnabled(is_own)

    def show_classes(self, classes: ClassList, keys: Mapping[str, str], numbers: Mapping[str, int]) -> None:
        """Show these classes."""
        self.table.show_classes(classes, keys, numbers)
        self._on_row()

    def _on_add(self) -> None:
        name, is_ok = QInputDialog.getText(self, "New class", "Name of the class")
        if is_ok:
            self.edited.emit("add_class", (name,))

    def _on_rename(self) -> None:
        old = self.table.active
        name, is_ok = QInputDialog.getText(self, "Rename a class", f"New name of {old}", text=old)
        if is_ok and name != old:
            self.edited.emit("rename_class", (old, name))

    def _on_colour(self) -> None:
        name = self.table.active
        colour = QColorDialog.getColor(QColor("white"), self, f"Colour of {name}")
        if colour.isValid():
            self.edited.emit("recolour_class", (name, colour.name()))

    def _on_delete(self) -> None:
        self.edited.emit("delete_class", (self.table.active,))


def _call(slot: object, _checked: bool = False) -> None:
    if callable(slot):
        slot()
