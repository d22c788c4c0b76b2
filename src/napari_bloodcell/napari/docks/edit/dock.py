"""The Edit cells dock: a missed cell by a click or a box, and deleting, splitting and merging, with undo."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QGridLayout, QPushButton, QVBoxLayout, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.core.params import SegmentParams
from napari_bloodcell.models.weights import needs_download
from napari_bloodcell.napari.docks.base import RestingWidget, may_download
from napari_bloodcell.napari.docks.edit.painting import PaintButton
from napari_bloodcell.napari.docks.edit.prompts import BY_MODEL, UNTYPED, PromptQueue
from napari_bloodcell.napari.docks.edit.session import EditSession, edit_session
from napari_bloodcell.napari.docks.form import SettingsForm
from napari_bloodcell.napari.docks.layer_choice import LayerChoice
from napari_bloodcell.napari.docks.mouse import EditTools, Tool, cell_on_line
from napari_bloodcell.napari.docks.plain import PlainLabel
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import selection
from napari_bloodcell.napari.layers.look import cell_at
from napari_bloodcell.napari.notify import notify_errors
from napari_bloodcell.napari.preferences import preferred_settings
from napari_bloodcell.napari.work.worker import WorkPanel

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels, Layer
    from napari.utils.events import Event


KEYS: Final = (("Delete", "delete"), ("Backspace", "delete"), ("D", "delete"), ("S", "split"), ("J", "merge"))
IDLE: Final = "On the layer: D deletes and S splits the cell under the mouse, Shift-click selects, J merges."


class EditWidget(RestingWidget):
    """Corrects the cells of a layer, or finds the first cells of an image by hand."""

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)  # not the proxy that plugins are given
        self._session: EditSession | None = None
        self.tools = EditTools(self._viewer)
        self._build()
        events = self.tools.events
        events.clicked.connect(self._on_clicked)
        events.boxed.connect(self._on_boxed)
        events.cut.connect(self._on_cut)
        events.selected.connect(self._on_selected)
        self._layer.chosen.connect(self._on_layer)
        self.queue = PromptQueue(self._viewer, self._panel.work)
        self.queue.layer_made.connect(self._on_layer_made)
        self.wake()

    def _build(self) -> None:
        self._layer = LayerChoice(self._viewer, self._can_edit, none="No image yet", follows_active=True)
        self._layer.setToolTip("The cells to correct, or an image that has none yet")
        first, others = ["model"], [n for n in SegmentParams.model_fields if n not in ("model", "device")]
        self._form = SettingsForm(SegmentParams, first=first, without=others, values=preferred_settings("segment"))
        self._type = QComboBox()
        self._type.setToolTip("The type of cells that are added")
        form = QFormLayout()
        form.setContentsMargins(0, 0, 0, 0)
        form.addRow("Cells", self._layer)
        form.addRow("New cells", self._type)
        self._buttons = EditButtons()
        self._buttons.tool_chosen.connect(self.use_tool)
        self._buttons.acted.connect(self._on_action)
        self.paint_button = PaintButton(self._viewer)
        self._hint = PlainLabel(IDLE)
        self._hint.setWordWrap(True)
        self._panel = WorkPanel("Add a cell")
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self._form)
        layout.addWidget(self._buttons)
        layout.addWidget(self.paint_button)
        layout.addWidget(self._hint)
        layout.addWidget(self._panel)
        layout.addStretch(1)

    @property
    def session(self) -> EditSession:
        """Edits of the chosen layer.

        Raises
        ------
        InputError
            If no layer of cells is chosen.
        """
        if self._session is None:
            raise InputError("There are no cells to correct: choose their layer, or add one by a click.")
        return self._session

    def use_tool(self, tool: Tool) -> None:
        """Take a tool; `Tool.MOVE` leaves the mouse to napari."""
        self._buttons.show_tool(tool)
        self.tools.use(tool, self._layer.layer)
        self._hint.setText(next((tip for one, _, tip in TOOLS if one is tool), IDLE))

    def add_at(self, point: tuple[float, float]) -> None:
        """Find and add the cell at (y, x), pixels of the plane in view; prompts wait for each other."""
        self._prompt(point=point)

    def add_in(self, box: tuple[float, float, float, float]) -> None:
        """Find and add the cell in a box (y0, x0, y1, x1), pixels of the plane in view."""
        self._prompt(box=box)

    def cut(self, line: tuple[tuple[float, float], tuple[float, float]]) -> None:
        """Cut the cell that a line crosses longest."""
        session = self.session
        cells = layers.full_resolution(session.layer)
        cell = cell_on_line(cells[session.plane] if session.plane else cells, line)
        if not cell:
            raise InputError("The line crosses no cell. Draw it across the cell that is to be cut.")
        session.split(cell, line=line)

    def delete_selected(self) -> None:
        """Delete the selected cells."""
        self.session.delete(self._selected("delete"))

    def split_selected(self) -> None:
        """Split each selected cell at its waist."""
        for cell in self._selected("split"):
            self.session.split(cell)

    def merge_selected(self) -> None:
        """Merge the selected cells, and select nothing."""
        self.session.merge(selection.selected_cells(self._viewer, self.session.layer).tolist())
        self.select_none()

    def select_none(self) -> None:
        """Select no cell."""
        if self._session is not None:
            selection.select_cells(self._viewer, self._session.layer, [])

    def undo(self) -> None:
        """Take the last edit back."""
        self.session.undo()

    def redo(self) -> None:
        """Do again what was undone."""
        self.session.redo()

    def _selected(self, what: str) -> list[int]:
        ids: list[int] = selection.selected_cells(self._viewer, self.session.layer).tolist()
        if not ids:
            raise InputError(f"No cell is selected. Shift-click the cells to {what}.")
        return ids

    def _can_edit(self, layer: Layer) -> bool:
        return layers.is_cells(layer) or (
            isinstance(layer, Image) and layers.cells_layer_for(self._viewer, layer) is None
        )

    def _on_action(self, name: str) -> None:
        actions = {
            "Delete": self.delete_selected,
            "Split": self.split_selected,
            "Merge": self.merge_selected,
            "Select none": self.select_none,
            "Undo": self.undo,
            "Redo": self.redo,
        }
        notify_errors(actions[name])

    def _on_layer(self) -> None:
        """Turn to another layer."""
        self._leave()
        layer = self._layer.layer
        names = layers.names_of(layer) if layers.is_cells(layer) else []
        self._type.clear()
        self._type.addItems([BY_MODEL, UNTYPED, *names])
        if layers.is_cells(layer) and not self.is_resting:
            notify_errors(partial(self._enter, layer))
        self.tools.use(self.tools.tool, layer)
        self._show_state()

    def _enter(self, layer: Labels) -> None:
        session = self._session = edit_session(self._viewer, layer)
        session.events.edited.connect(self._on_edited)
        self.paint_button.follow(session)
        for key, name in KEYS:
            layer.bind_key(key, partial(self._on_key, name), overwrite=True)

    def _leave(self) -> None:
        self.paint_button.follow(None)
        if self._session is None:
            return
        self._session.events.edited.disconnect(self._on_edited)
        layer = self._session.layer
        for key, _ in KEYS:
            layer.bind_key(key, None)
        self._session = None

    def _on_key(self, name: str, layer: Labels) -> None:
        cell = cell_at(layer, self._viewer.cursor.position)
        if name == "merge":
            notify_errors(self.merge_selected)
        elif cell and name == "delete":
            notify_errors(partial(self.session.delete, [cell]))
        elif cell:
            notify_errors(partial(self.session.split, cell))

    def _on_edited(self, event: Event) -> None:
        self._hint.setText(str(event.value)[:1].upper() + str(event.value)[1:])
        self._show_state()

    def _show_state(self) -> None:
        history = self._session.history if self._session is not None else None
        self._buttons.enable(
            has_cells=history is not None,
            can_undo=history is not None and bool(history.done),
            can_redo=history is not None and bool(history.undone),
        )

    def _on_clicked(self, event: Event) -> None:
        notify_errors(partial(self.add_at, event.value))

    def _on_boxed(self, event: Event) -> None:
        notify_errors(partial(self.add_in, event.value))

    def _on_cut(self, event: Event) -> None:
        notify_errors(partial(self.cut, event.value))

    def _on_selected(self, event: Event) -> None:
        if self._session is not None:
            selection.toggle_cell(self._viewer, self._session.layer, event.value)

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

    def _on_layer_made(self, layer: Labels) -> None:
        self._layer.refresh()
        self._layer.choose(layer)

    def on_wake(self) -> None:
        """Listen to mouse and keys."""
        self.tools.attach()
        self._on_layer()

    def on_rest(self) -> None:
        """Leave mouse and keys alone."""
        self.use_tool(Tool.MOVE)
        self.tools.detach()
        self._leave()


TOOLS: Final = (
    (Tool.CLICK, "Add by click", "Click a cell that was missed; a click on a known cell outlines it anew."),
    (Tool.BOX, "Add by box", "Draw a box around a cell that was missed."),
    (Tool.CUT, "Cut", "Drag a line across a cell, or click on both sides of it: the cell is cut in two there."),
    (Tool.SELECT, "Select", "Click cells to select them. With every other tool: Shift-click."),
)
ACTIONS: Final = (
    ("Delete", "Delete the selected cells; key D or Delete: the cell under the mouse"),
    ("Split", "Split the selected cells where they are narrow; key S: the cell under the mouse"),
    ("Merge", "Make the selected cells one; key J"),
    ("Select none", "Select no cell"),
    ("Undo", "Take the last edit back; on the layer Ctrl+Z"),
    ("Redo", "Do again what was undone; on the layer Ctrl+Shift+Z"),
)


class EditButtons(QWidget):
    """Two columns of buttons."""

    tool_chosen = Signal(object)
    """`Tool`; `Tool.MOVE` when a tool is switched off."""
    acted = Signal(str)
    """Name of an action."""

    def __init__(self) -> None:
        super().__init__()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        self.tools: dict[Tool, QPushButton] = {}
        self.actions_by_name: dict[str, QPushButton] = {}
        for i, (tool, text, tip) in enumerate(TOOLS):
            button = self.tools[tool] = QPushButton(text)
            button.setCheckable(True)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_tool, tool))
            grid.addWidget(button, i // 2, i % 2)
        for i, (name, tip) in enumerate(ACTIONS, start=len(TOOLS)):
            button = self.actions_by_name[name] = QPushButton(name)
            button.setToolTip(tip)
            button.clicked.connect(partial(self._on_action, name))
            grid.addWidget(button, i // 2, i % 2)

    def show_tool(self, tool: Tool) -> None:
        """Show which tool is on."""
        for one, button in self.tools.items():
            button.setChecked(one is tool)

    def enable(self, *, has_cells: bool, can_undo: bool, can_redo: bool) -> None:
        """Enable the actions that can be done."""
        for name, button in self.actions_by_name.items():
            button.setEnabled({"Undo": can_undo, "Redo": can_redo}.get(name, has_cells))

    def _on_tool(self, tool: Tool, is_on: bool) -> None:
        self.tool_chosen.emit(tool if is_on else Tool.MOVE)

    def _on_action(self, name: str, _checked: bool = False) -> None:
        self.acted.emit(name)
