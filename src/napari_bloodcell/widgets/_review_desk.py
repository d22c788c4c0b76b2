"""Ties the journal of a review to what the Review dock shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari.utils.notifications import show_error
from qtpy.QtCore import QObject, Signal

from napari_bloodcell.journal import Journal, default_journal_folder
from napari_bloodcell.widgets._errors import notify_errors
from napari_bloodcell.widgets._preferences import set_preference
from napari_bloodcell.widgets._review_journal import ReviewJournal
from napari_bloodcell.widgets._review_view import show_place

if TYPE_CHECKING:
    from pathlib import Path

    from napari.components import ViewerModel
    from napari.layers import Image

    from napari_bloodcell.corrections import Correction
    from napari_bloodcell.errors import BloodCellError
    from napari_bloodcell.widgets._review_journal import Found, SecondOpinion
    from napari_bloodcell.widgets._review_opinions import OpinionsPanel
    from napari_bloodcell.widgets._review_session import ReviewSession


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
