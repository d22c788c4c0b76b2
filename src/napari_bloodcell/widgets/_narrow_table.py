"""A table that is as narrow as a dock of 350 px: whole rows, no grid, the first column takes what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

if TYPE_CHECKING:
    from collections.abc import Sequence


class NarrowTable(QTableWidget):
    """A table to read and to choose rows in.

    Parameters
    ----------
    columns : sequence of (str, str)
        Name and tooltip of each.
    name : str
        What it is called for a screen reader.
    """

    def __init__(self, columns: Sequence[tuple[str, str]], name: str) -> None:
        super().__init__(0, len(columns))
        self.setAccessibleName(name)
        for i, (title, tip) in enumerate(columns):
            item = QTableWidgetItem(title)
            item.setToolTip(tip)
            self.setHorizontalHeaderItem(i, item)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        vertical, header = self.verticalHeader(), self.horizontalHeader()
        if vertical is not None and header is not None:
            vertical.setVisible(False)
            vertical.setDefaultSectionSize(vertical.minimumSectionSize())
            header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
            header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
            header.setMinimumSectionSize(36)
