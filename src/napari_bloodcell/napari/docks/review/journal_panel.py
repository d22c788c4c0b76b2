"""The journal's side of the Review dock: who corrects, what could not be placed, and a second person's opinion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Qt, Signal
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

from napari_bloodcell.corrections.journal import Journal, default_journal_folder
from napari_bloodcell.napari.docks.plain import PlainLabel
from napari_bloodcell.napari.docks.review.journal import ReviewJournal
from napari_bloodcell.napari.docks.review.walk import show_place
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import set_preference

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_bloodcell.core.errors import BloodCellError
    from napari_bloodcell.corrections.agreement import Merged
    from napari_bloodcell.corrections.correction import Correction
    from napari_bloodcell.napari.docks.review.journal import Found, SecondOpinion
    from napari_bloodcell.napari.docks.review.session import ReviewSession


ROLE = Qt.ItemDataRole.UserRole


class OpinionsPanel(QWidget):
    """Shows what the journal holds; the user decides where people differ."""

    name_changed = Signal(str)
    merge_wanted = Signal(object)
    """Path of another person's journal."""
    place_chosen = Signal(object)
    """`Correction` to look at."""
    decided = Signal(int, str)
    """id, class"""

    def __init__(self) -> None:
        super().__init__()
        self._n_written = 0
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
        self.show_found(None)
        self.show_opinion(None)

    def show_found(self, found: Found | None) -> None:
        """Show what the journal knows of the image."""
        lost = found.lost if found is not None else []
        self._n_written = found.n_corrections if found is not None else 0
        self.add_written(0)
        self._lost_title.setText(f"{len(lost):,} could not be placed: their cells are not here any more.")
        self.lost.clear()
        for correction in lost:
            item = QListWidgetItem(_described(correction))
            item.setData(ROLE, correction)
            self.lost.addItem(item)
        for widget in (self._lost_title, self.lost):
            widget.setVisible(bool(lost))

    def add_written(self, n_more: int) -> None:
        """Show that the journal holds more corrections now."""
        self._n_written += n_more
        n = self._n_written
        self._told.setText(
            f"The journal holds {n:,} correction{'' if n == 1 else 's'} of this image."
            if n
            else "Every correction is written to the journal at once, and comes back with the image."
        )

    def show_opinion(self, opinion: SecondOpinion | None) -> None:
        """Show where people differ."""
        people = sorted({who for _, d in opinion.disputes for who in d.types}) if opinion is not None else []
        self.disputes.clear()
        self.disputes.setColumnCount(1 + len(people))
        self.disputes.setHorizontalHeaderLabels(["Cell", *people])
        self.disputes.setRowCount(0)
        header, vertical = self.disputes.horizontalHeader(), self.disputes.verticalHeader()
        if header is not None and vertical is not None:
            header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
            vertical.setVisible(False)
            vertical.setDefaultSectionSize(vertical.minimumSectionSize())
        for cell, dispute in opinion.disputes if opinion is not None else []:
            row = self.disputes.rowCount()
            self.disputes.insertRow(row)
            self._put(row, 0, str(cell) if cell else "gone", (cell, "", dispute.corrections[0]))
            for column, who in enumerate(people, start=1):
                name = dispute.types.get(who, "")
                self._put(row, column, name, (cell, name, dispute.corrections[0]))
        self._kappa.setText(_agreement(opinion.merged, opinion.n_taken) if opinion is not None else "")
        for widget in (self.disputes, self.decide):
            widget.setVisible(bool(opinion is not None and opinion.disputes))
        self._kappa.setVisible(opinion is not None)
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
            for row in range(self.disputes.rowCount() - 1, -1, -1):
                item = self.disputes.item(row, 0)
                if item is not None and item.data(ROLE)[0] == cell:
                    self.disputes.removeRow(row)

    def _on_merge(self) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "Another person's journal", "", "Journals (*.jsonl)")
        if name:
            self.merge_wanted.emit(Path(name))


def _agreement(merged: Merged, n_taken: int) -> str:
    """Return what to tell of a merge."""
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


class JournalDesk(QObject):
    """Opens the journal of the layer that is reviewed, shows it, and brings corrections back."""

    restored = Signal()
    """Cells got types again that a person had given them."""

    def __init__(self, panel: OpinionsPanel, viewer: ViewerModel) -> None:
        super().__init__(panel)
        self.journal: ReviewJournal | None = None
        self._panel, self._viewer = panel, viewer
        self._session: ReviewSession | None = None
        panel.name_changed.connect(self._on_name)
        panel.merge_wanted.connect(self.merge)
        panel.place_chosen.connect(lambda correction: notify_errors(lambda: self._show_place(correction)))

    def enter(self, session: ReviewSession, image_layer: Image | None) -> None:
        """Open the journal of an image; without the image nothing can be kept."""
        self._session = session
        self._panel.show_found(None)
        self._panel.show_opinion(None)
        self._panel.setEnabled(image_layer is not None)
        if image_layer is None:
            show_error("The image of these cells is not in the viewer: corrections cannot be kept without it.")
            return
        journal = self.journal = ReviewJournal(session, image_layer, Journal(default_journal_folder()))
        journal.found.connect(self._on_found)
        journal.second_opinion.connect(self._on_opinion)
        journal.written.connect(self._panel.add_written)
        journal.failed.connect(self._on_failed)
        self._panel.name.setText(journal.annotator)
        journal.look_up()

    def leave(self) -> None:
        """Write what is left, and close the journal."""
        if self.journal is not None:
            self.journal.close()
        self.journal = self._session = None

    def look_up(self) -> None:
        """Find the corrections again: the cells are others."""
        if self.journal is not None:
            self.journal.look_up()

    def merge(self, path: Path) -> None:
        """Take over another person's corrections, and show where people differ."""
        if self.journal is not None:
            self.journal.merge_with(path)

    def _on_found(self, found: Found) -> None:
        if self._session is not None and self.sender() is self.journal:
            self._panel.show_found(found)
            if self._session.restore(found.types):
                self.restored.emit()

    def _on_opinion(self, opinion: SecondOpinion) -> None:
        if self.sender() is self.journal:
            self._panel.show_opinion(opinion)

    def _on_failed(self, error: BloodCellError) -> None:
        show_error(str(error))

    def _on_name(self, name: str) -> None:
        set_preference("review", "annotator", name)
        if self.journal is not None and name:
            self.journal.annotator = name

    def _show_place(self, correction: Correction) -> None:
        if self._session is not None:
            y0, x0, y1, x1 = correction.bbox
            show_place(self._viewer, self._session.layer, correction.centroid, max(y1 - y0, x1 - x0))
