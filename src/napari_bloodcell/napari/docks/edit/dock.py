"""The Edit cells dock: adds cells by click or box; deletes, cuts, splits, merges and paints, with undo."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import napari.viewer
import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer
from napari.utils.events import Event
from numpy.typing import NDArray
from qtpy.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QPushButton

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.geometry import Box, slices_of
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.models.weights import needs_download
from napari_bloodcell.napari.docks.base import LayerChoice, PlainLabel, fill, form_rows, make_button, may_download
from napari_bloodcell.napari.docks.edit.preview import Preview
from napari_bloodcell.napari.docks.edit.prompts import BY_MODEL, UNTYPED, PromptedCell, PromptQueue
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.mouse import CellsDock, Tool, ToolButtons, cell_on_line
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.layers.features import cells_outside
from napari_bloodcell.napari.layers.images import visible_box
from napari_bloodcell.napari.layers.links import KEY, full_resolution, info_of
from napari_bloodcell.napari.layers.look import moved_placement, placement_of
from napari_bloodcell.napari.notify import connect_for_life, notify_errors, notifying
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.session.opening import bind_undo
from napari_bloodcell.napari.session.session import CellsSession
from napari_bloodcell.napari.session.strokes import strokes_of
from napari_bloodcell.napari.work.worker import WorkPanel

LARGEST_PX: Final = 4096 * 4096
"""Largest region that can be painted in."""
PAINTING: Final = "painting"
"""Kind of the layer."""


class PaintPatch:
    """A layer with a region of the cells, for napari's brush, eraser and fill; each stroke edits the session.

    `box` is (y0, x0, y1, x1), pixels of the finest level, by default the part in view. Raises `InputError` if no cells
    are in view, or too many pixels.
    """

    def __init__(self, viewer: ViewerModel, session: CellsSession, box: Box | None = None) -> None:
        self._viewer, self._session = viewer, session
        cells = session.layer
        found = box or visible_box(cells)
        if found is None:
            raise InputError(f"Nothing of {cells.name!r} is in sight. Move the cells into the window.")
        height, width = found[2] - found[0], found[3] - found[1]
        if height * width > LARGEST_PX:
            raise InputError(f"{height} × {width} pixels are in view, too many to paint in. Zoom in first.")
        self.box = found
        place = {**placement_of(cells), **moved_placement(cells, found[:2])}
        self.layer = Labels(
            self._read(),
            name=f"{info_of(cells).get('image') or cells.name} cells (painting)",
            metadata={KEY: {"kind": PAINTING, "cells_id": str(cells.unique_id)}},
            opacity=0.6,
            **place,
        )
        self.layer.selected_label = session.next_id
        self.layer.events.paint.connect(self._on_paint)
        self.layer.events.selected_label.connect(self._on_label)
        for name in ("done", "undone", "redone"):
            getattr(session.events, name).connect(self.refresh)
        self.layer.bind_key("M", self._on_new, overwrite=True)
        bind_undo(self.layer, session)
        viewer.add_layer(self.layer)
        viewer.layers.selection.active = self.layer
        self.layer.mode = "paint"

    @property
    def is_gone(self) -> bool:
        """Whether the user deleted the layer."""
        return self.layer not in self._viewer.layers

    def close(self) -> None:
        """Remove the layer; the strokes are in the cells."""
        for name in ("done", "undone", "redone"):
            getattr(self._session.events, name).disconnect(self.refresh)
        self.layer.events.paint.disconnect(self._on_paint)
        if not self.is_gone:
            self._viewer.layers.remove(self.layer)

    def refresh(self, _event: object = None) -> None:
        """Show the current cells."""
        now = self._read()
        if not np.array_equal(now, self.layer.data):
            np.copyto(self.layer.data, now)
            self.layer.refresh(extent=False)

    def _read(self) -> NDArray[np.int32]:
        return np.array(full_resolution(self._session.layer)[slices_of(self.box)], np.int32)

    def _on_paint(self, event: Event) -> None:
        """Turn strokes into edits."""
        y0, x0 = self.box[:2]
        for stroke in strokes_of(self.layer.data, event.value):
            self._session.take_stroke(stroke.before, stroke.after, (stroke.corner[0] + y0, stroke.corner[1] + x0))

    def _on_label(self, _event: object = None) -> None:
        """Refuse to paint a cell that lies elsewhere on the slide, and pick a new id instead."""
        if len(cells_outside(self._session.layer.features, [int(self.layer.selected_label)], self.box)):
            self.layer.selected_label = self._session.next_id

    def _on_new(self, _layer: Any) -> None:
        """Paint a new cell from now on."""
        self.layer.selected_label = self._session.next_id


class PaintButton(QPushButton):
    """Opens and closes a layer to paint in; hidden for cells that can be painted directly."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__("Paint what is in view")
        self.setToolTip(
            "Opens the cells in view for napari's brush, eraser and fill. Each stroke is written into all levels of "
            "the slide and its table, and can be undone. Key M: a new cell. Press again when done"
        )
        self.setCheckable(True)
        self._viewer = viewer
        self._session: CellsSession | None = None
        self.patch: PaintPatch | None = None
        self.toggled.connect(self._on_toggled)
        connect_for_life(viewer.layers.events.removed, self._on_removed)
        self.follow(None)

    def follow(self, session: CellsSession | None) -> None:
        """Switch to another session, and stop painting."""
        self.close_patch()
        self._session = session
        self.setVisible(session is not None and session.layer.multiscale and session.layer.ndim == 2)

    def close_patch(self) -> None:
        """Remove the layer that is painted in."""
        if self.patch is not None:
            patch, self.patch = self.patch, None
            patch.close()
        self.setChecked(False)

    def _on_toggled(self, is_on: bool) -> None:
        if not is_on:
            self.close_patch()
        elif self._session is not None:
            notify_errors(partial(self._open, self._session))
            if self.patch is None:
                self.setChecked(False)

    def _open(self, session: CellsSession) -> None:
        self.patch = PaintPatch(self._viewer, session)

    def _on_removed(self, _event: object = None) -> None:
        if self.patch is not None and self.patch.is_gone:
            self.close_patch()


TOOLS: Final = (
    (Tool.CLICK, "Add by click", "Click a cell that was missed; a click on a known cell outlines it anew."),
    (Tool.BOX, "Add by box", "Draw a box around a cell that was missed."),
    (Tool.CUT, "Cut", "Drag a line across a cell, or click on both sides of it: the cell is cut in two there."),
    (Tool.SELECT, "Select", "Click cells to select them. With every other tool: Shift-click."),
)
ACTIONS: Final = (
    ("Delete", "Delete the selected cells; key D or Delete, where none is selected: the cell under the mouse"),
    ("Split", "Split the selected cells where they are narrow; key S, where none is: the cell under the mouse"),
    ("Merge", "Merge the selected cells into one; key J"),
    ("Select none", "Select no cell"),
    ("Undo", "Undo the last change; on the layer Ctrl+Z"),
    ("Redo", "Redo what was undone; on the layer Ctrl+Shift+Z"),
)
KEYS: Final = {"Delete": "Delete", "Backspace": "Delete", "D": "Delete", "S": "Split", "J": "Merge"}


class EditWidget(CellsDock):
    """Corrects the cells of a layer, or adds the first cells of an image."""

    panel: WorkPanel
    tools = TOOLS
    idle = "On the layer: D deletes and S splits the cell under the mouse, Shift-click selects, J merges."
    selected_hint = "D deletes, S splits, J merges."
    no_cells = "There are no cells to correct: choose their layer, or add one by a click."

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        self._preview: tuple[Preview, Layer, PromptedCell] | None = None
        super().__init__(napari_viewer)
        self.queue = PromptQueue(self._viewer, self.panel.work)
        self.queue.layer_made.connect(self._on_layer_made)
        self.queue.found.connect(self._show_found)
        self.wake()

    def build(self) -> None:
        """Make the widgets."""
        self.cells = LayerChoice(self._viewer, self._can_edit, none="No image yet", follows_active=True)
        self.cells.setToolTip("The cells to correct, or an image that has none yet")
        first, others = ["model"], [n for n in SegmentParams.model_fields if n not in ("model", "device")]
        self._form = SettingsForm(SegmentParams, first=first, without=others, values=preferred_settings("segment"))
        self._type = QComboBox()
        self._type.setToolTip("The type of cells that are added")
        self.buttons = ToolButtons(TOOLS, ACTIONS)
        self.buttons.tool_chosen.connect(self.use_tool)
        self.buttons.acted.connect(notifying(self.act))
        self.shows_first = QCheckBox("Show a new cell first")
        self.shows_first.setToolTip(
            "What is found at a click is outlined: Enter adds it, as does a click on another cell; Escape drops it"
        )
        self.shows_first.setChecked(True)
        self.keep_found = make_button("Add it", "Add the cell that is outlined; key Enter", self.add_found)
        self.drop_found = make_button("Drop it", "Add nothing; key Escape", self.forget_found)
        self.paint_button = PaintButton(self._viewer)
        self.hint = PlainLabel(self.idle)
        self.panel = WorkPanel("Add a cell")
        rows = form_rows(Cells=self.cells, New_cells=self._type)
        answers = fill(QHBoxLayout(), self.keep_found, self.drop_found)
        parts = (self._form, self.buttons, self.shows_first, answers, self.paint_button, self.hint, self.panel)
        self.lay_out(rows, *parts, stretched=self.hint)
        for button in (self.keep_found, self.drop_found):
            button.hide()

    def gestures(self) -> dict[str, Callable[[Any], None]]:
        """Return what the mouse does, by event of `CellsMouse`."""
        return {"clicked": self._on_click, "boxed": self._on_box, "cut": self.cut}

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what keys do on the layers."""
        return {key: partial(self._on_key, self._act_on_meant, name) for key, name in KEYS.items()}

    def add_at(self, point: tuple[float, float]) -> None:
        """Find and add the cell at (y, x), pixels of the plane in view; requests are queued."""
        self._prompt(point=point)

    def add_in(self, box: tuple[float, float, float, float]) -> None:
        """Find and add the cell in a box (y0, x0, y1, x1), pixels of the plane in view."""
        self._prompt(box=box)

    def add_found(self) -> None:
        """Add the cell that is outlined."""
        shown = self._preview
        self.forget_found()
        if shown is not None:
            notify_errors(partial(self.queue.add, *shown[1:]))

    def forget_found(self) -> None:
        """Drop the cell that is outlined."""
        shown, self._preview = self._preview, None
        if shown is not None:
            shown[0].close()
            self.hint.setText(self.idle)
        for button in (self.keep_found, self.drop_found):
            button.hide()

    def _show_found(self, layer: Layer, found: PromptedCell) -> None:
        """Outline a cell that was found, before it is added."""
        self.forget_found()
        keys = {"Enter": self.add_found, "Escape": self.forget_found}
        self._preview = Preview(self._viewer, layer, found.mask, keys), layer, found
        for button in (self.keep_found, self.drop_found):
            button.show()
        what = found.cell_type or "cell"
        self.hint.setText(f"Found a {what}: Enter adds it, Escape drops it. A click on another cell adds it, too.")

    def _on_click(self, point: tuple[float, float]) -> None:
        if self._preview is not None and not self._preview[0].holds(point):
            self.add_found()
        self.forget_found()
        self._prompt(point=point, is_shown_first=self.shows_first.isChecked())

    def _on_box(self, box: tuple[float, float, float, float]) -> None:
        self.forget_found()
        self._prompt(box=box, is_shown_first=self.shows_first.isChecked())

    def cut(self, line: tuple[tuple[float, float], tuple[float, float]]) -> None:
        """Cut the cell that most of a line lies on."""
        session = self.session
        cells = links.full_resolution(session.layer)
        cell = cell_on_line(cells[session.plane] if session.plane else cells, line)
        if not cell:
            raise InputError("The line crosses no cell. Draw it across the cell that is to be cut.")
        session.split(cell, line=line)

    def act(self, name: str, cells: NDArray[Any] | None = None) -> None:
        """Do what a button says with the given or the selected cells; raise `InputError` if that is impossible."""
        if name in ("Undo", "Redo", "Select none"):
            super().act(name)
            return
        session = self.session
        ids = session.selected if cells is None else cells
        if not len(ids) and name != "Merge":  # merging has its own message
            raise InputError("No cell is selected, and none is under the mouse. Point at one, or Shift-click some.")
        if not self._consent.is_given(session, name, ids):
            return
        if name == "Delete":
            session.delete(ids)
        elif name == "Merge":
            session.merge(ids)
        else:
            for cell in ids.tolist():
                session.split(cell)

    def _can_edit(self, layer: Layer) -> bool:
        return links.is_cells(layer) or (
            isinstance(layer, Image) and links.cells_layer_for(self._viewer, layer) is None
        )

    def _prompt(self, **prompt: Any) -> None:
        layer = self.cells.layer
        if layer is None:
            raise InputError("There is no image. Open one first.")
        self.queue.params = self._form.settings()
        self.queue.cell_type = self._type.currentText()
        model = self.queue.params.model
        if self.queue.generator is None and needs_download(model) and not may_download(self, model):
            return
        self.queue.ask(layer, **prompt)

    def _on_layer(self) -> None:
        """Switch to another layer."""
        self._leave()
        layer = self.cells.layer
        names = links.names_of(layer) if links.is_cells(layer) else []
        self._type.clear()
        self._type.addItems([BY_MODEL, UNTYPED, *names])
        if links.is_cells(layer) and not self.is_resting:
            notify_errors(partial(self._enter, layer))
        if self.mouse.is_of(self):
            self.mouse.use(self.mouse.tool, layer, self)
        self._show_state()

    def _enter(self, layer: Labels) -> None:
        super()._enter(layer)
        self.paint_button.follow(self.session)

    def _leave(self) -> None:
        self.forget_found()
        self.paint_button.follow(None)
        super()._leave()

    def _act_on_meant(self, name: str) -> None:
        self.act(name, self.session.selected if name == "Merge" else self.session.meant)

    def _on_layer_made(self, layer: Labels) -> None:
        self.cells.refresh()
        self.cells.choose(layer)
