"""The widgets of the Review dock and how they lie; what they do is in `review`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QComboBox,
    QFormLayout,
    QGridLayout,
    QHBoxLayout,
    QInputDialog,
    QPushButton,
    QSizePolicy,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.core.cells import BUILTIN_TYPES, UNIDENTIFIED
from napari_bloodcell.napari.docks.base import NarrowTable, scrolled, swatch
from napari_bloodcell.napari.docks.gallery import Gallery
from napari_bloodcell.napari.docks.mouse import Tool
from napari_bloodcell.napari.docks.plain import PlainLabel, plain
from napari_bloodcell.napari.docks.review.journal_panel import OpinionsPanel
from napari_bloodcell.napari.docks.review.session import key_of
from napari_bloodcell.napari.docks.review.walk import WalkControls
from napari_bloodcell.napari.layers.features import INDEX, rows_of
from napari_bloodcell.napari.layers.look import describe_cell
from napari_bloodcell.napari.preferences import colour_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari.layers import Image, Labels
    from numpy.typing import NDArray
    from qtpy.QtGui import QShowEvent

    from napari_bloodcell.napari.docks.layer_choice import LayerChoice
    from napari_bloodcell.napari.docks.review.session import ClassList, Step


TOOLS: Final = (
    (Tool.CLICK, "Click to type", "A click on a cell gives it the active class; with Shift it selects."),
    (Tool.BOX, "Box to select", "Drag a box around cells: they are selected. Then press the key of their class."),
)
ACTIONS: Final = (
    ("Select none", "Select no cell"),
    ("Type selected", "Give the selected cells the active class"),
    ("Undo", "Take the last change back; on the layers Ctrl+Z"),
    ("Redo", "Do again what was undone; on the layers Ctrl+Shift+Z"),
)
IDLE: Final = "Point at a cell and press the key of its class. Keys . and , go to the next cell and back."


class ReviewControls(QWidget):
    """All that is seen of the Review dock."""

    tool_chosen = Signal(object)
    """`Tool`; `Tool.MOVE` when a tool is switched off."""
    acted = Signal(str)
    """Name of an action."""

    def __init__(self, cells: LayerChoice) -> None:
        super().__init__()
        self.classes, self.walk = ClassEditor(), WalkControls()
        self.gallery, self.opinions = GalleryPanel(), OpinionsPanel()
        self.hint = PlainLabel(IDLE)
        self.hint.setWordWrap(True)
        self.tools: dict[Tool, QPushButton] = {}
        self.actions_by_name: dict[str, QPushButton] = {}
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for title, inside in (
            ("Cells", self._cells_page()),
            ("Gallery", self.gallery),
            ("Journal", self.opinions),
        ):
            self.tabs.addTab(inside, title)
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Cells", cells)
        inside = QWidget()
        rows = QVBoxLayout(inside)
        rows.addLayout(form)
        rows.addWidget(self.classes)
        rows.addLayout(self._grid(ACTIONS[2:]))
        rows.addWidget(self.tabs, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(scrolled(inside))
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)  # else napari leaves half empty

    def show_tool(self, tool: Tool) -> None:
        """Show which tool is on."""
        for one, button in self.tools.items():
            button.setChecked(one is tool)

    def enable(self, *, has_cells: bool, can_undo: bool, can_redo: bool) -> None:
        """Enable what can be done."""
        for name, button in self.actions_by_name.items():
            button.setEnabled({"Undo": can_undo, "Redo": can_redo}.get(name, has_cells))
        for widget in (self.classes, self.walk, self.gallery, self.opinions.merge, *self.tools.values()):
            widget.setEnabled(has_cells)

    def _cells_page(self) -> QWidget:
        page = QWidget()
        rows = QVBoxLayout(page)
        rows.setContentsMargins(0, 6, 0, 0)
        grid = QGridLayout()
        for i, (tool, text, tip) in enumerate(TOOLS):
            button = self.tools[tool] = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(plain(tip))
            button.clicked.connect(partial(self._on_tool, tool))
            grid.addWidget(button, 0, i)
        rows.addLayout(grid)
        rows.addLayout(self._grid(ACTIONS[:2]))
        rows.addWidget(self.walk)
        rows.addWidget(self.hint)
        rows.addStretch(1)
        return page

    def _grid(self, actions: tuple[tuple[str, str], ...]) -> QGridLayout:
        grid = QGridLayout()
        for i, (name, tip) in enumerate(actions):
            button = self.actions_by_name[name] = QPushButton(name)
            button.setToolTip(plain(tip))
            button.clicked.connect(partial(self._on_action, name))
            grid.addWidget(button, 0, i)
        return grid

    def _on_tool(self, tool: Tool, is_on: bool) -> None:
        self.tool_chosen.emit(tool if is_on else Tool.MOVE)

    def _on_action(self, name: str, _checked: bool = False) -> None:
        self.acted.emit(name)


MOST_ROWS: Final = 7
"""More classes than these are scrolled."""
HEADER: Final = (
    ("Class", "The active class types the cells that are clicked"),
    ("Key", "Types the cell under the mouse, the selected ones, or those marked in the gallery"),
    ("Cells", "How many cells have this class"),
)


class ClassTable(NarrowTable):
    """One class a row."""

    def __init__(self) -> None:
        super().__init__(HEADER, "Classes")
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)

    def show_classes(self, classes: ClassList, keys: Mapping[str, str], numbers: Mapping[str, int]) -> None:
        """Show these classes; the active one stays."""
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
        """Show how many cells each class has now."""
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
        """Make a class the active one."""
        for row in range(self.rowCount()):
            item = self.item(row, 0)
            if item is not None and item.text() == name:
                self.setCurrentCell(row, 0)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Be as high as the rows are in the style of the window."""
        super().showEvent(event)
        self._fit()

    def _fit(self) -> None:
        header, rows = self.horizontalHeader(), min(self.rowCount(), MOST_ROWS)
        height = sum(self.rowHeight(i) for i in range(rows)) + 2 * self.frameWidth() + 2
        self.setFixedHeight(height + (header.sizeHint().height() if header is not None else 0))


class ClassEditor(QWidget):
    """The table, with buttons that add, rename, recolour and delete."""

    edited = Signal(str, object)
    """Name of the method of `ReviewSession`, and its arguments as a tuple."""
    wanted = Signal(str)
    """A class was double-clicked: the selected cells are to be of it."""

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
            button.setToolTip(plain(tip))
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


UNSURE_FIRST, SURE_FIRST = "least certain first", "most certain first"
FEW: Final = 50_000
"""Cells that come back into a list that is not longer find their place in the order; else they come first."""


class GalleryPanel(QWidget):
    """Class, order, grid, and the class that marked cells are moved to."""

    move_wanted = Signal(object, str)
    """ids, class"""
    key_pressed = Signal(str)
    cell_chosen = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._layer: Labels | None = None
        self._class, self._order, self._target = QComboBox(), QComboBox(), QComboBox()
        self._class.setToolTip("Whose cells are shown")
        self._order.addItems([UNSURE_FIRST, SURE_FIRST])
        self._order.setToolTip("By the probability that the model gave; what was typed by hand counts as certain")
        self._target.setToolTip("Where the marked cells are moved")
        self.gallery = Gallery()
        self._told = PlainLabel()
        self.move_marked = QPushButton("Move marked to")
        self.move_marked.setToolTip("Give the marked cells this class; in the grid the class's key does the same")
        self.move_marked.setEnabled(False)
        top, below = QHBoxLayout(), QHBoxLayout()
        top.addWidget(self._class, 1)
        top.addWidget(self._order, 1)
        below.addWidget(self.move_marked)
        below.addWidget(self._target, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(top)
        layout.addWidget(self.gallery, 1)
        layout.addWidget(self._told)
        layout.addLayout(below)
        self._class.currentIndexChanged.connect(lambda _: self.refresh())
        self._order.currentIndexChanged.connect(lambda _: self.refresh())
        self.gallery.marked.connect(self._on_marked)
        self.gallery.key_pressed.connect(self.key_pressed)
        self.gallery.cell_chosen.connect(self.cell_chosen)
        self.move_marked.clicked.connect(
            lambda: self.move_wanted.emit(self.gallery.marked_cells(), self._target.currentText())
        )

    @property
    def cell_type(self) -> str:
        """The class that is shown."""
        return self._class.currentText()

    def show_class(self, name: str) -> None:
        """Show the cells of a class."""
        self._class.setCurrentIndex(max(self._class.findText(name), 0))

    def use(self, cells_layer: Labels | None, image_layer: Image | None) -> None:
        """Show cells of this layer."""
        self._layer = cells_layer
        self.gallery.use(cells_layer, image_layer)
        self.refresh()

    def show_classes(self, names: Sequence[str]) -> None:
        """Offer these classes."""
        for combo in (self._class, self._target):
            before = combo.currentText()
            combo.blockSignals(True)
            combo.clear()
            combo.addItems(list(names))
            combo.setCurrentIndex(max(combo.findText(before), 0))
            combo.blockSignals(False)
        if self._target.currentText() == self._class.currentText() and self._target.count() > 1:
            self._target.setCurrentIndex(1)
        self.refresh()

    def refresh(self) -> None:
        """List the cells of the class anew."""
        self.gallery.cells.show_cells(self._ordered(), self._caption)
        self._tell()

    def follow(self, step: Step) -> None:
        """Take cells out whose class is another now, and put those in that came into this one."""
        if self._layer is None:
            return
        features = self._layer.features
        rows = rows_of(features, step.ids)
        ids = features[INDEX].to_numpy(np.int64)[rows]
        is_here = (features["cell_type"].iloc[rows] == self.cell_type).to_numpy(bool)
        model = self.gallery.cells
        model.remove(np.setdiff1d(step.ids, ids[is_here]))
        for cell, probability in zip(
            ids[is_here].tolist(), features["probability"].to_numpy(np.float64)[rows][is_here].tolist(), strict=True
        ):
            model.insert([cell], self._place_of(probability))
        self._tell()

    def _ordered(self) -> NDArray[np.int64]:
        if self._layer is None or "cell_type" not in self._layer.features.columns:
            return np.empty(0, np.int64)
        features = self._layer.features
        rows = np.flatnonzero((features["cell_type"] == self.cell_type).to_numpy(bool))
        ids, keys = features[INDEX].to_numpy(np.int64)[rows], self._keys(rows)
        return np.asarray(ids[np.argsort(keys, kind="stable")], np.int64)

    def _keys(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return by what cells are sorted."""
        if self._layer is None:
            return np.empty(0)
        certain = self._layer.features["probability"].to_numpy(np.float64)[rows]
        return np.asarray(-certain if self._order.currentText() == SURE_FIRST else certain, np.float64)

    def _place_of(self, probability: float) -> int:
        """Return where a cell of this probability belongs in the list."""
        ids = self.gallery.cells.ids
        if self._layer is None or len(ids) > FEW:
            return 0
        key = -probability if self._order.currentText() == SURE_FIRST else probability
        return int(np.searchsorted(self._keys(rows_of(self._layer.features, ids)), key))

    def _caption(self, cell: int) -> tuple[str, str]:
        if self._layer is None:
            return "", ""
        features = self._layer.features
        rows = rows_of(features, [cell])
        if not len(rows):
            return "", f"cell {cell} is gone"
        probability = features["probability"].iat[rows[0]]
        by_hand = features["type_source"].iat[rows[0]] == "user"
        short = "by hand" if by_hand else f"{100 * probability:.1f} %" if np.isfinite(probability) else "–"
        return short, describe_cell(self._layer, cell)

    def _on_marked(self) -> None:
        self.move_marked.setEnabled(bool(self.gallery.marked_cells()))
        self._tell()

    def _tell(self) -> None:
        n, marked = len(self.gallery.cells.ids), len(self.gallery.marked_cells())
        self._told.setText(f"{n:,} cell{'' if n == 1 else 's'}" + (f", {marked:,} marked" if marked else ""))
