"""The Edit cells dock: adds cells by click or box; deletes, cuts, splits and merges, with undo."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from napari.layers import Image
from qtpy.QtWidgets import QComboBox

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.models.weights import needs_download
from napari_bloodcell.napari.docks.base import Dock, LayerChoice, PlainLabel, form_rows, may_download
from napari_bloodcell.napari.docks.edit.painting import PaintButton
from napari_bloodcell.napari.docks.edit.prompts import BY_MODEL, UNTYPED, PromptQueue
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.mouse import (
    Consent,
    Tool,
    ToolButtons,
    cell_on_line,
    keys_of,
    mouse_of,
    told_change,
    told_selection,
)
from napari_bloodcell.napari.layers import links
from napari_bloodcell.napari.notify import connect_for_life, notify_errors
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.session.opening import cells_session
from napari_bloodcell.napari.session.session import CellsSession
from napari_bloodcell.napari.work.worker import WorkPanel

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels, Layer
    from napari.utils.events import Event
    from numpy.typing import NDArray

    from napari_bloodcell.napari.session.session import CellsSession

TOOLS: Final = (
    (Tool.CLICK, "Add by click", "Click a cell that was missed; a click on a known cell outlines it anew."),
    (Tool.BOX, "Add by box", "Draw a box around a cell that was missed."),
    (Tool.CUT, "Cut", "Drag a line across a cell, or click on both sides of it: the cell is cut in two there."),
    (Tool.SELECT, "Select", "Click cells to select them. With every other tool: Shift-click."),
)
ACTIONS: Final = (
    ("Delete", "Delete the selected cells; key D or Delete, where none is selected: the cell under the mouse"),
    ("Split", "Split the selected cells where they are narrow; key S, where none is: the cell under the mouse"),
    ("Merge", "Make the selected cells one; key J"),
    ("Select none", "Select no cell"),
    ("Undo", "Take the last change back; on the layer Ctrl+Z"),
    ("Redo", "Do again what was undone; on the layer Ctrl+Shift+Z"),
)
KEYS: Final = {"Delete": "Delete", "Backspace": "Delete", "D": "Delete", "S": "Split", "J": "Merge"}
IDLE: Final = "On the layer: D deletes and S splits the cell under the mouse, Shift-click selects, J merges."


class EditWidget(Dock):
    """Corrects the cells of a layer, or adds the first cells of an image."""

    panel: WorkPanel

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__(napari_viewer)
        self._session: CellsSession | None = None
        self._consent = Consent()
        self.mouse = mouse_of(self._viewer)
        self._build()
        for name in ("clicked", "boxed", "cut", "tool"):
            connect_for_life(getattr(self.mouse.events, name), getattr(self, f"_on_{name}"))
        self._layer.chosen.connect(self._on_layer)
        self.queue = PromptQueue(self._viewer, self.panel.work)
        self.queue.layer_made.connect(self._on_layer_made)
        self.wake()

    def _build(self) -> None:
        self._layer = LayerChoice(self._viewer, self._can_edit, none="No image yet", follows_active=True)
        self._layer.setToolTip("The cells to correct, or an image that has none yet")
        first, others = ["model"], [n for n in SegmentParams.model_fields if n not in ("model", "device")]
        self._form = SettingsForm(SegmentParams, first=first, without=others, values=preferred_settings("segment"))
        self._type = QComboBox()
        self._type.setToolTip("The type of cells that are added")
        self.buttons = ToolButtons(TOOLS, ACTIONS)
        self.buttons.tool_chosen.connect(self.use_tool)
        self.buttons.acted.connect(self._on_acted)
        self.paint_button = PaintButton(self._viewer)
        self.hint = PlainLabel(IDLE)
        self.panel = WorkPanel("Add a cell")
        rows = form_rows(Cells=self._layer, New_cells=self._type)
        self.lay_out(rows, self._form, self.buttons, self.paint_button, self.hint, self.panel, stretched=self.hint)

    @property
    def session(self) -> CellsSession:
        """The session of the chosen layer; raises `InputError` if no cells layer is chosen."""
        if self._session is None:
            raise InputError("There are no cells to correct: choose their layer, or add one by a click.")
        return self._session

    def use_tool(self, tool: Tool) -> None:
        """Choose a tool; `Tool.MOVE` leaves the mouse to napari."""
        self.buttons.show_tool(tool)
        self.mouse.use(tool, self._layer.layer, self)
        self.hint.setText(next((tip for one, _, tip in TOOLS if one is tool), IDLE))

    def add_at(self, point: tuple[float, float]) -> None:
        """Find and add the cell at (y, x), pixels of the plane in view; requests are queued."""
        self._prompt(point=point)

    def add_in(self, box: tuple[float, float, float, float]) -> None:
        """Find and add the cell in a box (y0, x0, y1, x1), pixels of the plane in view."""
        self._prompt(box=box)

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
        session = self.session
        match name:
            case "Undo":
                session.undo()
                return
            case "Redo":
                session.redo()
                return
            case "Select none":
                session.select([])
                return
        ids = session.selected if cells is None else cells
        if not len(ids) and name != "Merge":  # that has a message of its own
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
        layer = self._layer.layer
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
        layer = self._layer.layer
        names = links.names_of(layer) if links.is_cells(layer) else []
        self._type.clear()
        self._type.addItems([BY_MODEL, UNTYPED, *names])
        if links.is_cells(layer) and not self.is_resting:
            notify_errors(partial(self._enter, layer))
        if self.mouse.is_of(self):
            self.mouse.use(self.mouse.tool, layer, self)
        self._show_state()

    def _enter(self, layer: Labels) -> None:
        session = self._session = cells_session(self._viewer, layer)
        for name in ("done", "undone", "redone"):
            getattr(session.events, name).connect(self._on_change)
        session.events.selection.connect(self._on_selection)
        self.paint_button.follow(session)
        keys_of(session).bind(self, session, {key: partial(self._on_key, name) for key, name in KEYS.items()})

    def _leave(self) -> None:
        self.paint_button.follow(None)
        session, self._session = self._session, None
        if session is None:
            return
        for name in ("done", "undone", "redone"):
            getattr(session.events, name).disconnect(self._on_change)
        session.events.selection.disconnect(self._on_selection)
        keys_of(session).release(self)

    def _show_state(self) -> None:
        history = self._session.history if self._session is not None else None
        self.buttons.enable(
            has_cells=history is not None,
            can_undo=history is not None and bool(history.done),
            can_redo=history is not None and bool(history.undone),
        )

    def _on_acted(self, name: str) -> None:
        notify_errors(partial(self.act, name))

    def _on_key(self, name: str) -> None:
        notify_errors(lambda: self.act(name, self.session.selected if name == "Merge" else self.session.meant))

    def _on_change(self, event: Event) -> None:
        self.hint.setText(told_change(event))
        self._show_state()

    def _on_selection(self, _event: Event) -> None:
        told = told_selection(self.session)
        self.hint.setText(f"{told}: D deletes, S splits, J merges." if told else IDLE)

    def _on_clicked(self, event: Event) -> None:
        if self.mouse.is_of(self):
            notify_errors(partial(self.add_at, event.value))

    def _on_boxed(self, event: Event) -> None:
        if self.mouse.is_of(self):
            notify_errors(partial(self.add_in, event.value))

    def _on_cut(self, event: Event) -> None:
        if self.mouse.is_of(self):
            notify_errors(partial(self.cut, event.value))

    def _on_tool(self, _event: Event) -> None:
        if not self.mouse.is_of(self):
            self.buttons.show_tool(Tool.MOVE)

    def _on_layer_made(self, layer: Labels) -> None:
        self._layer.refresh()
        self._layer.choose(layer)

    def on_wake(self) -> None:
        """Follow mouse and keys."""
        self.mouse.attach(self)
        self._on_layer()

    def on_rest(self) -> None:
        """Release mouse and keys."""
        self.use_tool(Tool.MOVE)
        self.mouse.detach(self)
        self._leave()
