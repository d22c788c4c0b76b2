"""The journal in the Review dock: who corrects, what could not be restored, and a second person's opinion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QFormLayout,
    QHeaderView,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_bloodcell.napari.docks.plain import PlainLabel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_bloodcell.corrections.agreement import Dispute, Merged
    from napari_bloodcell.corrections.correction import Correction
    from napari_bloodcell.napari.session.journal import SecondOpinion

ROLE = Qt.ItemDataRole.UserRole


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
        self._told = PlainLabel()
        self._told.setWordWrap(True)
        self._told.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._lost_title = PlainLabel()
        self._lost_title.setWordWrap(True)
        self.lost = QListWidget()
        self.lost.setAccessibleName("Corrections that could not be placed")
        self.lost.setToolTip("Click one to see where it was made")
        self.lost.setMaximumHeight(110)
        self.merge = QPushButton("Merge another journal…")
        self.merge.setToolTip("Take over what another person corrected in this image, and see where you differ")
        self._kappa = PlainLabel()
        self._kappa.setWordWrap(True)
        self.disputes = QTableWidget(0, 0)
        self.disputes.setAccessibleName("Cells on which people differ")
        self.disputes.setTabKeyNavigation(False)
        self.disputes.setToolTip("Choose the class that is right, in one row or several, and decide")
        self.disputes.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.disputes.setMinimumHeight(120)
        self.decide = QPushButton("Decide for the chosen classes")
        self.decide.setToolTip("Give each cell the class that is chosen in its row, as your own decision")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Your name", self.name)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 6, 0, 0)
        layout.addLayout(form)
        for widget in (self._told, self._lost_title, self.lost, self.merge, self._kappa):
            layout.addWidget(widget)
        layout.addWidget(self.disputes, 1)
        layout.addWidget(self.decide)
        layout.addStretch(0)
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
        self._told.setText(
            f"The journal holds {n:,} correction{'' if n == 1 else 's'} of this image."
            if n
            else "Every correction is written to the journal at once, and comes back with the image."
        )

    def show_lost(self, lost: Sequence[Correction]) -> None:
        """List the corrections whose cells are gone."""
        self._lost_title.setText(f"{len(lost):,} could not be placed: their cells are not here any more.")
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
        header, vertical = self.disputes.horizontalHeader(), self.disputes.verticalHeader()
        if header is not None and vertical is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
            vertical.setVisible(False)
            vertical.setDefaultSectionSize(vertical.minimumSectionSize())
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
    what = f"{correction.from_type or 'untyped'} → {correction.to_type}"
    return f"{what} at {y:.0f}, {x:.0f} by {correction.annotator}"
