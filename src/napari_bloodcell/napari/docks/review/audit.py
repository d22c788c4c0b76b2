"""The audit: cells of a random sample, one after another, with their types hidden until a person has typed them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from napari.layers import Labels
from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QKeyEvent, QPixmap
from qtpy.QtWidgets import QComboBox, QLabel, QSpinBox, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.audit import Drawn, agreement_of, draw_sample, result_of
from napari_bloodcell.napari.docks.base import PlainLabel, fill_column, form_rows, make_button, slim
from napari_bloodcell.napari.docks.gallery import cut_with_surroundings, icon_of
from napari_bloodcell.napari.docks.review.walk import show_cell
from napari_bloodcell.napari.layers.features import INDEX, by_hand, places_of
from napari_bloodcell.napari.layers.images import image_source
from napari_bloodcell.napari.layers.links import full_resolution, image_layer_for, types_layer_for
from napari_bloodcell.napari.session.changes import TypeChange
from napari_bloodcell.napari.session.journal import Audited, when_done
from napari_bloodcell.napari.session.session import CellsSession

NEW: Final = "A new sample"
PICTURE_PX: Final = 190
IDLE: Final = (
    "A random sample of each class is shown without its type. You type each cell; then you see how many were right."
)


class CellPicture(QLabel):
    """The cell to judge; it has the keyboard."""

    key_pressed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setMinimumHeight(PICTURE_PX)
        self.setAccessibleName("The cell to judge")
        self.setToolTip("The cell to judge: press the key of its class")

    def keyPressEvent(self, event: QKeyEvent | None) -> None:
        """Emit letters and digits."""
        text = event.text().upper() if event is not None else ""
        if event is not None and len(text) == 1 and text.isalnum():
            self.key_pressed.emit(text)
        else:
            super().keyPressEvent(event)


class AuditPanel(QWidget):
    """What is audited, the cell to judge, and the result."""

    started = Signal(int, str)
    """Cells per class, and the name of an earlier sample ("" for a new one)."""
    stopped = Signal()
    key_pressed = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.n_per_class = QSpinBox()
        self.n_per_class.setRange(1, 1000)
        self.n_per_class.setValue(20)
        self.n_per_class.setToolTip("How many cells of each class are drawn; of rarer classes all are")
        self.sample = QComboBox()
        self.sample.setToolTip("Draw new cells, or judge those of another reader, without seeing what was said")
        slim(self.sample)
        self.start = make_button("Start the audit", "Hide all types and show the first cell")
        self.picture, self.hint, self.result = CellPicture(), PlainLabel(IDLE), PlainLabel()
        self.result.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        form = form_rows(Cells_per_class=self.n_per_class, Sample=self.sample)
        fill_column(self, form, self.start, self.picture, self.hint, self.result, top=6).addStretch(1)
        self.picture.hide()
        self.is_running = False
        self.show_audits([])
        self.start.clicked.connect(self._on_start)
        self.sample.currentIndexChanged.connect(lambda _: self._show_state())
        self.picture.key_pressed.connect(self.key_pressed)

    def show_audits(self, audits: Sequence[Audited]) -> None:
        """Offer the samples of earlier audits."""
        chosen = self.sample.currentData()
        self.sample.clear()
        self.sample.addItem(NEW, "")
        for audit in audits:
            n = len(audit.cells)
            self.sample.addItem(f"{audit.name}: {n:,} cell{'' if n == 1 else 's'}", audit.name)
        self.sample.setCurrentIndex(max(self.sample.findData(chosen), 0))

    def show_running(self, is_running: bool) -> None:
        """Show the picture, and a button that stops; or the choice of a sample."""
        self.is_running = is_running
        self.start.setText("Stop the audit" if is_running else "Start the audit")
        tip = "What was judged is kept, and counts" if is_running else "Hide all types and show the first cell"
        self.start.setToolTip(tip)
        self.picture.setVisible(is_running)
        if is_running:
            self.picture.setFocus()
        self._show_state()

    def _show_state(self) -> None:
        self.sample.setEnabled(not self.is_running)
        self.n_per_class.setEnabled(not self.is_running and not self.sample.currentData())

    def _on_start(self) -> None:
        if self.is_running:
            self.stopped.emit()
        else:
            self.started.emit(self.n_per_class.value(), self.sample.currentData() or "")


class Audit:
    """Leads a reader through a sample; layers that tell types are hidden meanwhile."""

    def __init__(self, panel: AuditPanel) -> None:
        self._panel = panel
        self._cells: list[Drawn] = []
        self._position = 0
        self.name = ""
        self._hidden: list[Labels] = []
        self._is_judging = False

    @property
    def is_running(self) -> bool:
        """Whether a cell waits to be judged."""
        return self._panel.is_running

    def start(self, session: CellsSession, n_per_class: int, earlier: Audited | None) -> None:
        """Begin with a new sample, or with the cells of an earlier audit that this reader has not judged yet."""
        if not session.journal.has_image:
            raise InputError("The image of these cells is not in the viewer: what is judged is kept with it.")
        reader = session.journal.annotator
        if earlier is None:
            features = session.layer.features
            mine = (features[INDEX] != 0).to_numpy(bool) & ~by_hand(features)
            types = features["cell_type"].fillna("").astype(str).to_numpy(object)[mine]
            self._cells = draw_sample(features[INDEX].to_numpy(np.int64)[mine], types.tolist(), n_per_class)
            self.name = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {reader}".strip()
        elif reader in earlier.readers:
            raise InputError(
                f"{reader} has judged this sample. A second reader gives another name in the Journal tab, and starts."
            )
        else:
            random = np.random.default_rng()
            self._cells = [earlier.cells[i] for i in random.permutation(len(earlier.cells))]
            self.name = earlier.name
        self._position = 0
        typed = types_layer_for(session.viewer, session.layer)
        self._hidden = [layer for layer in (session.layer, typed) if layer is not None and layer.visible]
        for layer in self._hidden:
            layer.visible = False
        self._panel.result.clear()
        self._panel.show_running(True)
        self._show(session)

    def judge(self, session: CellsSession, name: str) -> None:
        """Take the type that the reader gives, and show the next cell."""
        drawn = self._cells[self._position]
        self._is_judging, session.journal.drawn = True, drawn.fields(self.name)
        try:
            n = session.type_cells([drawn.cell], name)
        finally:
            self._is_judging, session.journal.drawn = False, {}
        if not n:
            self._panel.hint.setText("That cell is gone; here is the next.")
        self._position += 1
        self._show(session)

    def follow(self, session: CellsSession, change: Any, *, is_undo: bool) -> None:
        """Go back to a cell whose judgement was undone."""
        if self._is_judging or not self.is_running or not isinstance(change, TypeChange):
            return
        if is_undo and self._position and change.ids.tolist() == [self._cells[self._position - 1].cell]:
            self._position -= 1
            self._show(session)

    def stop(self, session: CellsSession | None, then: Callable[[list[Audited]], object] | None = None) -> None:
        """Show the types again; `then` gets the audits of the image."""
        if not self.is_running:
            return
        for layer in self._hidden:
            layer.visible = True
        self._hidden = []
        self._panel.show_running(False)
        self._panel.hint.setText(IDLE)
        if session is None:
            return
        with suppress(InputError):  # the layer or the window may be gone
            if session.layer in session.viewer.layers:
                session.viewer.layers.selection.active = session.layer
        if then is not None:
            session.flush()
            when_done(session.journal.audits(), then)

    def _show(self, session: CellsSession) -> None:
        while self._position < len(self._cells) and not self._show_one(session, self._cells[self._position].cell):
            self._position += 1
        if self._position >= len(self._cells):
            self._panel.stopped.emit()

    def _show_one(self, session: CellsSession, cell: int) -> bool:
        layer, image_layer = session.layer, image_layer_for(session.viewer, session.layer)
        found = places_of(layer.features, [cell], full_resolution(layer).shape[:-2]).get(cell)
        if found is None or image_layer is None or not show_cell(session, cell):
            return False
        session.viewer.layers.selection.active = image_layer  # the status bar would tell the type of a cell
        picture = cut_with_surroundings(image_source(image_layer), full_resolution(layer), cell, *found)
        pixmap: QPixmap = icon_of(picture, PICTURE_PX).pixmap(PICTURE_PX, PICTURE_PX)
        self._panel.picture.setPixmap(pixmap)
        place = f"{self._position + 1:,} of {len(self._cells):,}"
        self._panel.hint.setText(f"{place} · Press the key of its class, or double-click the class above.")
        return True


def told(audit: Audited) -> str:
    """Return the result of each reader of an audit, and how far they agree."""
    lines = [f"{who}: {result_of(judged)}" for who, judged in audit.readers.items()]
    for who, judged in audit.readers.items():
        wrong = {name: row for name, row in result_of(judged).by_type.items() if row[0] < row[1]}
        if wrong:
            some = ", ".join(f"{n - right} of {n} {name}" for name, (right, n, _) in wrong.items())
            lines.append(f"Wrong for {who}: {some}")
    return "\n".join([*lines, *map(str, agreement_of(audit.readers))])
