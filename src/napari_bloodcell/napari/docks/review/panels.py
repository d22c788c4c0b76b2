"""The classes in the Review dock: colour, name, key, number of cells; the active one types clicked cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QShowEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QFileDialog,
    QHBoxLayout,
    QHeaderView,
    QInputDialog,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QWidget,
)

from napari_bloodcell.core.cells import BUILTIN_TYPES, UNIDENTIFIED, full_name, split_name
from napari_bloodcell.corrections.agreement import Dispute, Merged
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.napari.docks.base import (
    NarrowTable,
    PlainLabel,
    fill,
    fill_column,
    fit_height,
    form_rows,
    make_button,
    narrow_headers,
    plain,
    swatch,
)
from napari_bloodcell.napari.docks.colours import ColourSwitch
from napari_bloodcell.napari.session.classes import ClassList, key_of
from napari_bloodcell.napari.session.journal import SecondOpinion

ROLE: Final = Qt.ItemDataRole.UserRole
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

    def show_classes(
        self, classes: ClassList, keys: Mapping[str, str], numbers: Mapping[str, int], of_type: str = ""
    ) -> None:
        """Show these classes, or the kinds of a type; the active one stays active."""
        active, names = self.active, classes.kinds_of(of_type) if of_type else list(classes.names)
        self.blockSignals(True)
        self.setRowCount(len(names))
        for row, name in enumerate(names):
            first = QTableWidgetItem(split_name(name)[1] or name)
            first.setData(ROLE, name)
            first.setToolTip(plain(name))
            first.setIcon(swatch(classes.colour_of(name)))
            self.setItem(row, 0, first)
            for column, text in enumerate((key_of(name, keys), f"{numbers.get(name, 0):,}"), start=1):
                item = QTableWidgetItem(text)
                side = Qt.AlignmentFlag.AlignHCenter if column == 1 else Qt.AlignmentFlag.AlignRight
                item.setTextAlignment(Qt.AlignmentFlag.AlignVCenter | side)
                self.setItem(row, column, item)
        self.activate(active if active in names else names[0])
        self.blockSignals(False)
        fit_height(self, MOST_ROWS)

    def show_numbers(self, numbers: Mapping[str, int]) -> None:
        """Update the numbers of cells."""
        for row in range(self.rowCount()):
            name, item = self.item(row, 0), self.item(row, 2)
            if name is not None and item is not None:
                item.setText(f"{numbers.get(name.data(ROLE), 0):,}")

    @property
    def active(self) -> str:
        """Name of the active class; of a kind, the full one."""
        item = self.item(self.currentRow(), 0)
        return str(item.data(ROLE)) if item is not None else ""

    def activate(self, name: str) -> None:
        """Make a class active."""
        for row in range(self.rowCount()):
            item = self.item(row, 0)
            if item is not None and item.data(ROLE) == name:
                self.setCurrentCell(row, 0)

    def showEvent(self, event: QShowEvent | None) -> None:
        """Match the height to the rows in the window's style."""
        super().showEvent(event)
        fit_height(self, MOST_ROWS)


class ClassEditor(QWidget):
    """The table, with buttons to add, rename, recolour and delete."""

    edited = Signal(str, object)
    """Name of a `CellsSession` method, and its arguments as a tuple."""
    wanted = Signal(str)
    """A class was double-clicked: type the selected cells."""
    kinds_wanted = Signal()
    """Show the kinds of the active class, or the classes again."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ClassTable()
        self._of_type = ""
        self.kinds = make_button("", "Switch list, keys and gallery to the kinds of a class and back; on the layers K")
        self.colours = ColourSwitch()
        row = QHBoxLayout()
        self.buttons: dict[str, QPushButton] = {}
        for text, tip, slot in (
            ("Add…", "Add a class of your own", self._on_add),
            ("Rename…", "Rename the class, and its cells with it", self._on_rename),
            ("Colour…", "Give the class another colour", self._on_colour),
            ("Delete", "Delete the class; its cells become unidentified", self._on_delete),
        ):
            self.buttons[text] = make_button(text, tip, partial(_call, slot))
            row.addWidget(self.buttons[text])
        above = fill(QHBoxLayout(), self.kinds, self.colours, stretched=[self.kinds, self.colours])
        fill_column(self, above, self.table, row)
        self.kinds.clicked.connect(lambda: self.kinds_wanted.emit())
        self.table.currentCellChanged.connect(self._on_row)
        self.table.cellDoubleClicked.connect(lambda *_: self.wanted.emit(self.table.active))

    def _on_row(self, *_rows: int) -> None:
        active = self.table.active
        is_own = bool(active) and not self._of_type and active not in (*BUILTIN_TYPES, UNIDENTIFIED)
        for text in ("Rename…", "Delete"):
            self.buttons[text].setEnabled(is_own)
        self.kinds.setText("◂ All classes" if self._of_type else f"Kinds of {active} ▸")
        self.kinds.setEnabled(bool(self._of_type) or active in BUILTIN_TYPES)

    def show_classes(
        self, classes: ClassList, keys: Mapping[str, str], numbers: Mapping[str, int], of_type: str = ""
    ) -> None:
        """Show these classes, or the kinds of a type; going back, that type is active."""
        before, self._of_type = self._of_type, of_type
        self.table.show_classes(classes, keys, numbers, of_type)
        if before and not of_type:
            self.table.activate(before)
        self._on_row()

    def _on_add(self) -> None:
        if self._of_type:
            title, label = "New kind", f"Name of a kind of {self._of_type}"
        else:
            title, label = "New class", "Name of the class"
        name, is_ok = QInputDialog.getText(self, title, label)
        if is_ok and self._of_type:
            self.edited.emit("add_kind", (self._of_type, name))
        elif is_ok:
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


class JournalPanel(QWidget):
    """Shows the journal; where people differ, the user decides."""

    name_changed = Signal(str)
    merge_wanted = Signal(object)
    """Path of another person's journal."""
    place_chosen = Signal(object)
    """`Correction` to look at."""
    decided = Signal(int, str)
    """id, class"""

    def __init__(self) -> None:
        super().__init__()
        self._disputes: list[tuple[int, Dispute]] = []
        self.name = QLineEdit()
        self.name.setToolTip("Who corrects: it is written beside each correction")
        self._number_label = PlainLabel()
        self._number_label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._lost_title = PlainLabel()
        self.lost = QListWidget()
        self.lost.setAccessibleName("Corrections that could not be placed")
        self.lost.setToolTip("Click one to see where it was made")
        self.lost.setMaximumHeight(110)
        self.merge = make_button(
            "Merge another journal…", "Take over what another person corrected in this image, and see where you differ"
        )
        self._kappa = PlainLabel()
        self.disputes = QTableWidget(0, 0)
        self.disputes.setAccessibleName("Cells on which people differ")
        self.disputes.setTabKeyNavigation(False)
        self.disputes.setToolTip("Select the right class in one or more rows, then decide")
        self.disputes.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.disputes.setMinimumHeight(120)
        self.decide = make_button(
            "Decide for the chosen classes", "Give each cell the class that is chosen in its row, as your own decision"
        )
        rows = (
            form_rows(Your_name=self.name),
            self._number_label,
            self._lost_title,
            self.lost,
            self.merge,
            self._kappa,
        )
        fill_column(self, *rows, self.disputes, self.decide, stretched=self.disputes, top=6).addStretch(0)
        self.name.editingFinished.connect(lambda: self.name_changed.emit(self.name.text().strip()))
        self.merge.clicked.connect(self._on_merge)
        for wish in (self.lost.itemClicked, self.lost.itemActivated):  # by mouse, by the Enter key
            wish.connect(lambda item: self.place_chosen.emit(item.data(ROLE)))
        self.disputes.itemSelectionChanged.connect(self._on_selected)
        self.decide.clicked.connect(self._on_decide)
        self.clear()

    def clear(self) -> None:
        """Show that nothing is known yet."""
        self.show_number(0)
        self.show_lost([])
        self._disputes = []
        self._show_disputes()
        self._kappa.clear()
        self._kappa.hide()

    def show_number(self, n: int) -> None:
        """Show the number of valid corrections of the image."""
        self._number_label.setText(
            f"The journal holds {n:,} correction{'' if n == 1 else 's'} of this image."
            if n
            else "Every correction is written to the journal at once, and comes back with the image."
        )

    def show_lost(self, lost: Sequence[Correction]) -> None:
        """List the corrections whose cells are gone."""
        self._lost_title.setText(f"{len(lost):,} could not be placed: their cells no longer exist.")
        self.lost.clear()
        for correction in lost:
            item = QListWidgetItem(_described(correction))
            item.setData(ROLE, correction)
            self.lost.addItem(item)
        for widget in (self._lost_title, self.lost):
            widget.setVisible(bool(lost))

    def add_opinion(self, opinion: SecondOpinion) -> None:
        """Add disputes to those not decided yet."""
        fresh = {d.corrections[0].key for _, d in opinion.disputes} | {cell for cell, _ in opinion.disputes if cell}
        kept = [(cell, d) for cell, d in self._disputes if not {cell, d.corrections[0].key} & fresh]
        self._disputes = [*kept, *opinion.disputes]
        self._show_disputes()
        self._kappa.setText(_agreement(opinion.merged, len(opinion.taken)))
        self._kappa.show()

    def _show_disputes(self) -> None:
        people = sorted({who for _, d in self._disputes for who in d.types})
        self.disputes.clear()
        self.disputes.setColumnCount(1 + len(people))
        self.disputes.setHorizontalHeaderLabels(["Cell", *people])
        self.disputes.setRowCount(len(self._disputes))
        narrow_headers(self.disputes, QHeaderView.ResizeMode.Stretch)
        for row, (cell, dispute) in enumerate(self._disputes):
            self._put(row, 0, str(cell) if cell else "gone", (cell, "", dispute.corrections[0]))
            for column, who in enumerate(people, start=1):
                name = dispute.types.get(who, "")
                self._put(row, column, name, (cell, name, dispute.corrections[0]))
        for widget in (self.disputes, self.decide):
            widget.setVisible(bool(self._disputes))
        self._on_selected()

    def choices(self) -> dict[int, str]:
        """Return the chosen class by id."""
        chosen: dict[int, str] = {}
        for item in self.disputes.selectedItems():
            cell, name, _ = item.data(ROLE)
            if cell and name:
                chosen[cell] = name
        return chosen

    def _put(self, row: int, column: int, text: str, value: Any) -> None:
        item = QTableWidgetItem(text)
        item.setData(ROLE, value)
        self.disputes.setItem(row, column, item)

    def _on_selected(self) -> None:
        self.decide.setEnabled(bool(self.choices()))
        items = self.disputes.selectedItems()
        if items:
            self.place_chosen.emit(items[-1].data(ROLE)[2])

    def _on_decide(self) -> None:
        for cell, name in self.choices().items():
            self.decided.emit(cell, name)
            self._disputes = [(other, d) for other, d in self._disputes if other != cell]
        self._show_disputes()

    def _on_merge(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Another person's journal", "", "Journals (*.jsonl)")
        if name:
            self.merge_wanted.emit(Path(name))


def _agreement(merged: Merged, n_taken: int) -> str:
    """Return a summary of a merge."""
    parts = [f"{n_taken:,} correction{'' if n_taken == 1 else 's'} taken over."]
    for (a, b), kappa in merged.kappas.items():
        n = merged.n_shared[a, b]
        parts.append(f"{a} and {b}: Cohen's κ = {kappa:.2f} over {n:,} shared cell{'' if n == 1 else 's'}.")
    if not merged.kappas:
        parts.append("No cell was corrected by two people, so there is no agreement to measure.")
    n = len(merged.disputes)
    parts.append(f"They differ on {n:,}:" if n else "They differ on none.")
    return " ".join(parts)


def _described(correction: Correction) -> str:
    y, x = correction.centroid
    before = full_name(correction.from_type, correction.from_subtype) or "untyped"
    what = f"{before} → {correction.said or ('abnormal' if correction.to_abnormal else 'not abnormal')}"
    return f"{what} at {y:.0f}, {x:.0f} by {correction.annotator}"
