"""The Review dock: corrects types by key, click, box or gallery, with undo, and keeps every correction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final
from weakref import WeakMethod, ref

import napari.viewer
import numpy as np
from napari.layers import Labels
from napari.utils.events import Event
from napari.utils.notifications import show_info
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QSizePolicy, QTabWidget, QWidget

from napari_bloodcell.core.cells import BUILTIN_TYPES
from napari_bloodcell.core.errors import InputError
from napari_bloodcell.corrections.correction import Correction
from napari_bloodcell.napari.docks.base import LayerChoice, PlainLabel, Watched, fill_column, form_rows
from napari_bloodcell.napari.docks.gallery import GalleryPanel
from napari_bloodcell.napari.docks.mouse import CellsDock, Tool, ToolButtons
from napari_bloodcell.napari.docks.review.audit import Audit, AuditPanel, told
from napari_bloodcell.napari.docks.review.look import LookControls
from napari_bloodcell.napari.docks.review.panels import ClassEditor, JournalPanel
from napari_bloodcell.napari.docks.review.walk import Walk, WalkControls, doubts_seen, show_place
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import cells_in_box
from napari_bloodcell.napari.layers.images import plane_number
from napari_bloodcell.napari.notify import notify_errors, notifying
from napari_bloodcell.napari.preferences import set_preference
from napari_bloodcell.napari.session.changes import TypeChange
from napari_bloodcell.napari.session.classes import show_classes
from napari_bloodcell.napari.session.journal import Audited, Found, SecondOpinion, describe_found, when_done
from napari_bloodcell.napari.session.opening import cells_session

TOOLS: Final = (
    (Tool.CLICK, "Click to type", "A click on a cell gives it the active class; with Shift it selects."),
    (Tool.BOX, "Box to select", "Drag a box around cells: they are selected. Then press the key of their class."),
)
SELECTING: Final = (
    ("Select none", "Select no cell"),
    ("Type selected", "Give the selected cells the active class"),
    ("Abnormal", "Mark the selected cells as abnormal, beside their class, or take the mark away; on the layers A"),
)
UNDOING: Final = (
    ("Undo", "Undo the last change; on the layers Ctrl+Z"),
    ("Redo", "Redo what was undone; on the layers Ctrl+Shift+Z"),
)
SOON_MS: Final = 150
"""After a change from elsewhere the dock refreshes once nothing more has come for this long."""


class ReviewWidget(CellsDock):
    """Reviews the types of a layer's cells; rests while hidden."""

    tools = TOOLS
    idle = "Point at a cell and press the key of its class. Keys . and , go to the next cell and back."
    selected_hint = "press the key of their class."
    no_cells = "There are no cells to review. Segment and classify an image first."

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._awaited: Labels | None = None
        self._kinds_of = ""  # the type whose kinds are listed; "": the classes are
        self._walk, self._audit = Walk(self.walk), Audit(self.audit)
        self._audits: list[Audited] = []
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(SOON_MS)
        self._soon.timeout.connect(self._on_new_table)
        self._connect()
        self.wake()

    def build(self) -> None:
        """Make the widgets."""
        self.cells = LayerChoice(self._viewer, links.is_cells, none="No cells yet", follows_active=True)
        self.cells.setToolTip("The layer whose cells are reviewed")
        self.classes, self.walk, self.look = ClassEditor(), WalkControls(), LookControls()
        self.gallery, self.journal, self.audit = GalleryPanel(), JournalPanel(), AuditPanel()
        self.buttons, self.undo_buttons = ToolButtons(TOOLS, SELECTING), ToolButtons((), UNDOING)
        self.hint = PlainLabel(self.idle)
        page = QWidget()
        fill_column(page, self.buttons, self.walk, self.look, self.hint, top=6).addStretch(1)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        for title, tab in (
            ("Cells", page),
            ("Gallery", self.gallery),
            ("Journal", self.journal),
            ("Audit", self.audit),
        ):
            self.tabs.addTab(tab, title)
        self.lay_out(form_rows(Cells=self.cells), self.classes, self.undo_buttons, self.tabs, stretched=self.tabs)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)  # else napari leaves half empty

    def _connect(self) -> None:
        for signal, method in (
            (self.buttons.tool_chosen, self.use_tool),
            (self.buttons.acted, self.act),
            (self.undo_buttons.acted, self.act),
            (self.classes.edited, self.edit_classes),
            (self.classes.wanted, self.type_selected),
            (self.classes.kinds_wanted, self.switch_kinds),
            (self.walk.stepped, self.step),
            (self.walk.changed, self._walk.forget),
            (self.gallery.move_wanted, self._type_in_gallery),
            (self.gallery.scope_changed, self._show_gallery),
            (self.gallery.key_pressed, self._on_gallery_key),
            (self.gallery.cell_chosen, self._go_to_shown),
            (self.journal.decided, self._on_decided),
            (self.journal.name_changed, self._on_name),
            (self.journal.merge_wanted, self.merge),
            (self.journal.place_chosen, self._show_place),
            (self.audit.started, self.start_audit),
            (self.audit.stopped, self.stop_audit),
            (self.audit.key_pressed, self._on_audit_key),
        ):
            signal.connect(notifying(method))

    def gestures(self) -> dict[str, Callable[[Any], None]]:
        """Return what the mouse does, by event of `CellsMouse`."""
        return {"clicked": self._type_at, "boxed": self._select_in}

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what keys do on the layers: type cells, mark them, go to another, or switch to kinds and back."""
        names = self.session.classes.keys(self._kinds_of)
        typing = {key: partial(self._on_key, self.press, name) for key, name in names.items()}
        walking = {key: partial(self._on_key, self.step, by) for key, by in ((".", 1), (",", -1))}
        others = {"A": lambda: notify_errors(self.mark_meant), "K": lambda: notify_errors(self.switch_kinds)}
        return {**typing, **walking, **others}

    def act(self, name: str) -> None:
        """Do what a button says."""
        if name == "Type selected":
            self.type_selected(self.classes.table.active)
        elif name == "Abnormal":
            self._mark(self.session.selected)
        else:
            super().act(name)

    def edit_classes(self, verb: str, arguments: tuple[str, ...]) -> None:
        """Add, rename, recolour or delete a class; `verb` is a method of the session."""
        getattr(self.session, verb)(*arguments)

    def type_cells(self, ids: Sequence[int], name: str) -> None:
        """Type cells."""
        self.session.type_cells(ids, name)

    def type_selected(self, name: str) -> None:
        """Type the selected cells; in an audit the one that is shown."""
        if self._audit.is_running:
            self._audit.judge(self.session, name)
        else:
            self._type(name, self.session.selected)

    def press(self, name: str) -> None:
        """Handle the key of a class: type the selected cells, else the one under the mouse."""
        meant = self.session.meant
        self._type(name, meant)
        if self.walk.goes_on.isChecked() and meant.tolist() == [self._walk.cell]:
            self.step(1)

    def mark_meant(self) -> None:
        """Handle the key of the mark: on the selected cells, else on the one under the mouse."""
        self._mark(self.session.meant)

    def switch_kinds(self) -> None:
        """Switch list, keys and gallery to the kinds of the active class, or back to the classes."""
        active = self.classes.table.active
        if not self._kinds_of and active not in BUILTIN_TYPES:
            raise InputError(f"{active} has no kinds; choose {', '.join(BUILTIN_TYPES)} first.")
        self._kinds_of = "" if self._kinds_of else active
        self._bind_keys()
        self._look_again()

    def step(self, by: int) -> None:
        """Go to the next cell (1) or the previous one (−1) in the chosen order."""
        self._walk.step(self.session, by)

    def go_to(self, cell: int) -> None:
        """Centre the view on a cell and outline it."""
        self._walk.go_to(self.session, cell)

    def merge(self, path: Path) -> None:
        """Merge another person's corrections, and show where people differ."""
        when_done(self.session.journal.compare(path), self._while_here(self._on_opinion))

    def start_audit(self, n_per_class: int, name: str) -> None:
        """Show a sample of cells one by one, with all types hidden; `name` is that of an earlier sample, or ""."""
        earlier = next((audit for audit in self._audits if audit.name == name), None) if name else None
        self._audit.start(self.session, n_per_class, earlier)

    def stop_audit(self) -> None:
        """Show the types again, and how many were right."""
        self._audit.stop(self._session, self._while_here(self._on_audited))

    def _on_audited(self, audits: list[Audited]) -> None:
        self._on_audits(audits)
        mine = [audit for audit in audits if audit.name == self._audit.name]
        self.audit.result.setText(told(mine[0]) if mine else "Nothing was judged.")

    def _on_audits(self, audits: list[Audited]) -> None:
        self._audits = audits
        self.audit.show_audits(audits)

    def _on_audit_key(self, key: str) -> None:
        name = self.session.classes.keys().get(key)
        if name is not None and self._audit.is_running:
            self._audit.judge(self.session, name)

    def _type(self, name: str, ids: Any) -> None:
        if not len(ids):
            raise InputError("No cell is selected, and none is under the mouse. Point at one, or use 'Box to select'.")
        if self._consent.is_given(self.session, f"Type {name}", ids):
            self.session.type_cells(ids, name)

    def _mark(self, ids: Any) -> None:
        if not len(ids):
            raise InputError("No cell is selected, and none is under the mouse. Point at one, or use 'Box to select'.")
        if self._consent.is_given(self.session, "Mark", ids):
            self.session.mark_abnormal(ids)

    def _while_here(self, method: Callable[..., None]) -> Callable[..., None]:
        """Return a function that calls a method while the dock exists and shows the same session."""
        find, dock, session = WeakMethod(method), ref(self), self._session

        def call(*values: Any) -> None:
            here, found = dock(), find()
            if here is not None and found is not None and here._session is session:
                notify_errors(partial(found, *values))

        return call

    def _on_layer(self) -> None:
        """Switch to another layer."""
        self._leave()
        layer = self.cells.layer
        if layer is not None and not self.is_resting:
            if "cell_type" in layer.features.columns:
                notify_errors(partial(self._enter, layer))
            else:
                self._awaited = layer
                layer.events.features.connect(self._on_table)
        self._look_again()

    def watched(self) -> Watched:
        """Yield what changes which images are open."""
        for name in ("inserted", "removed"):
            yield getattr(self._viewer.layers.events, name), self._on_images

    def _on_images(self, _event: Event) -> None:
        if self._session is not None and self.gallery.everywhere.isChecked():
            if self._session.layer in self._viewer.layers:
                self._show_gallery()

    def _on_table(self, _event: Event) -> None:
        """Start once the layer has its table."""
        if self._awaited is not None and "cell_type" in self._awaited.features.columns:
            self._on_layer()

    def _slots(self) -> dict[str, Callable[[Event], None]]:
        return {**super()._slots(), "classes": self._on_classes}

    def _enter(self, layer: Labels) -> None:
        super()._enter(layer)
        session = self.session
        self.classes.colours.use(self._viewer, layer)
        layer.events.features.connect(self._on_features)
        self._show_gallery()
        self.journal.clear()
        self.journal.setEnabled(session.journal.has_image)
        self.journal.name.setText(session.journal.annotator)
        self._on_audits([])
        if session.journal.has_image:
            when_done(session.journal.audits(), self._while_here(self._on_audits))
        session.put_back_soon(self._while_here(self._on_found))
        self._viewer.layers.selection.active = layer

    def _leave(self) -> None:
        session, awaited, self._awaited = self._session, self._awaited, None
        self._audit.stop(session)
        super()._leave()
        if awaited is not None:
            awaited.events.features.disconnect(self._on_table)
        self._soon.stop()
        if session is not None:
            session.layer.events.features.disconnect(self._on_features)
            self.gallery.use([])
            self.look.follow(None)
            self.classes.colours.use(self._viewer, None)

    def _on_change(self, event: Event) -> None:
        if isinstance(event.value, TypeChange):
            self.gallery.follow(event.value)
        self._audit.follow(self.session, event.value, is_undo=event.type == "undone")
        super()._on_change(event)

    def _on_classes(self, _event: Event) -> None:
        self._walk.forget()
        self._bind_keys()
        self._look_again()

    def _on_features(self, _event: Event) -> None:
        """Refresh after something else wrote to the table."""
        if self._session is not None and not self._session.is_changing:
            self._soon.start()

    def _on_new_table(self) -> None:
        self._look_again()
        self.session.put_back_soon(self._while_here(self._on_found))

    def _on_found(self, found: Found, n_back: int) -> None:
        self.journal.show_lost(found.lost)
        if n_back:
            show_info(describe_found(found, n_back))
            self._look_again()
        self._show_state()

    def _on_opinion(self, opinion: SecondOpinion) -> None:
        self.session.take_over(opinion)
        self.journal.add_opinion(opinion)
        self._look_again()

    def _look_again(self) -> None:
        """Refresh classes, numbers and gallery."""
        session = self._session
        if session is not None:
            classes, of_type = session.classes, self._kinds_of
            names = classes.kinds_of(of_type) if of_type else list(classes.names)
            self.classes.show_classes(classes, classes.keys(of_type), session.numbers(), of_type)
            self.walk.show_classes(names)
            self.gallery.show_classes(names)
            self.look.follow(session.layer, classes.names)
            self._walk.forget()
        self._show_state()

    def _show_state(self) -> None:
        super()._show_state()
        session = self._session
        for widget in (
            self.classes,
            self.walk,
            self.look,
            self.gallery,
            self.journal.merge,
            self.audit,
            *self.buttons.tools.values(),
        ):
            widget.setEnabled(session is not None)
        if session is not None:
            self.walk.show_progress(*doubts_seen(session))
            self.classes.table.show_numbers(session.numbers())
            self.journal.show_number(session.n_corrections)

    def _on_gallery_key(self, key: str) -> None:
        name, marked = self.session.classes.keys(self._kinds_of).get(key), self.gallery.gallery.marked_cells()
        if key == "K":
            self.switch_kinds()
        elif key == "A" and marked:
            for layer, ids in self.gallery.by_layer(marked):
                cells_session(self._viewer, layer).mark_abnormal(ids)
        elif name is not None and marked:
            self._type_in_gallery(marked, name)

    def _type_in_gallery(self, keys: Sequence[int], name: str) -> None:
        """Type cells of any open image, given their keys in the gallery."""
        chosen = self.gallery.by_layer(keys)
        for layer, ids in chosen:
            session = cells_session(self._viewer, layer)
            if session is not self._session:
                show_classes(self._viewer, layer, session.classes.having([name]))
            session.type_cells(ids, name)
        if any(layer is not self.session.layer for layer, _ids in chosen):
            self.gallery.refresh()

    def _go_to_shown(self, key: int) -> None:
        """Go to a cell of any open image, given its key in the gallery."""
        for layer, ids in self.gallery.by_layer([key]):
            if layer is not self.session.layer:
                layer.visible = True
                self.cells.choose(layer)
            self.go_to(ids[0])

    def _show_gallery(self) -> None:
        """Show the cells of this image in the gallery, or those of all."""
        mine = self.session.layer
        others = [one for one in self._viewer.layers if links.is_cells(one) and one is not mine]
        layers = [mine, *(others if self.gallery.everywhere.isChecked() else [])]
        self.gallery.use([(layer, links.image_layer_for(self._viewer, layer)) for layer in layers])

    def _on_decided(self, cell: int, name: str) -> None:
        self.type_cells([cell], name)

    def _on_name(self, name: str) -> None:
        set_preference("review", "annotator", name)
        if name:
            self.session.journal.annotator = name

    def _show_place(self, correction: Correction) -> None:
        y0, x0, y1, x1 = correction.bbox
        show_place(self._viewer, self.session.layer, correction.centroid, max(y1 - y0, x1 - x0))

    def _type_at(self, point: tuple[float, float]) -> None:
        y, x = (round(v) for v in point)
        cells = links.full_resolution(self.session.layer)
        if 0 <= y < cells.shape[-2] and 0 <= x < cells.shape[-1]:
            cell = int(np.asarray(cells[(*self.session.plane, y, x)]))
            if cell:
                self.type_cells([cell], self.classes.table.active)

    def _select_in(self, box: tuple[float, float, float, float]) -> None:
        layer = self.session.layer
        stack = links.full_resolution(layer).shape[:-2]
        plane = plane_number(self.session.plane, stack) if stack else None
        self.session.select(cells_in_box(layer.features, box, plane=plane))
