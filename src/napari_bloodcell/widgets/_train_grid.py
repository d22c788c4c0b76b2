"""The tries of a grid search as a table that grows while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORT = {
    "learning_rate": ("Rate", "Learning rate"),
    "batch_size": ("Batch", "Cutouts in a step"),
    "dense_units": ("Units", "Width of the dense layer"),
    "dropout": ("Drop", "Share of dense units dropped in training"),
    "epochs": ("Epochs", "Passes over the examples"),
    "val_loss": ("Loss", "On the validation part; the least one is kept"),
    "val_accuracy": ("Acc.", "Share of the validation part that is typed right, percent"),
}


class GridTable(QTableWidget):
    """One try a row, the best one in bold; a click on a header sorts."""

    def __init__(self) -> None:
        super().__init__(0, 0)
        self.setAccessibleName("Tries of the grid search")
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setShowGrid(False)
        self.setTabKeyNavigation(False)
        self.setMinimumHeight(200)
        self.tries: list[dict[str, Any]] = []

    def clear_tries(self) -> None:
        """Begin anew."""
        self.tries.clear()
        self.setRowCount(0)

    def add_try(self, figures: Mapping[str, Any]) -> None:
        """Add a try: its settings, `val_loss` and `val_accuracy`."""
        if not self.tries:
            self._make_columns(figures)
        self.tries.append(dict(figures))
        self.setSortingEnabled(False)
        row = self.rowCount()
        self.insertRow(row)
        for column, name in enumerate(figures):
            self.setItem(row, column, _Number(_text(name, figures[name]), float(figures[name])))
        self._embolden()
        self.setSortingEnabled(True)
        self.scrollToBottom()

    def _make_columns(self, figures: Mapping[str, Any]) -> None:
        self.setColumnCount(len(figures))
        for column, name in enumerate(figures):
            short, tip = SHORT.get(name, (name, name))
            item = QTableWidgetItem(short)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(column, item)
        header, vertical = self.horizontalHeader(), self.verticalHeader()
        if header is not None and vertical is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
            header.setMinimumSectionSize(30)
            vertical.setVisible(False)
            vertical.setDefaultSectionSize(vertical.minimumSectionSize())

    def _embolden(self) -> None:
        """Show which try has the least loss."""
        column = list(self.tries[0]).index("val_loss")
        rows = range(self.rowCount())
        best = min(rows, key=lambda row: _value(self.item(row, column)))
        for row in rows:
            for i in range(self.columnCount()):
                item = self.item(row, i)
                if item is not None:
                    font = item.font()
                    font.setBold(row == best)
                    item.setFont(font)


class _Number(QTableWidgetItem):
    """Sorted by its value, not by its text."""

    def __init__(self, text: str, value: float) -> None:
        super().__init__(text)
        self.setData(Qt.ItemDataRole.UserRole, value)
        self.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)

    def __lt__(self, other: QTableWidgetItem) -> bool:
        return _value(self) < _value(other)


def _value(item: QTableWidgetItem | None) -> float:
    return float("inf") if item is None else float(item.data(Qt.ItemDataRole.UserRole))


def _text(name: str, value: Any) -> str:
    if name == "val_accuracy":
        return f"{100 * value:.1f}"
    return f"{value:.3f}" if name == "val_loss" else f"{value:g}"
