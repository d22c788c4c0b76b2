"""Mouse and keys on cells, shared by all docks of a window, and the base of the docks that use them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels, Layer, Shapes
from napari.utils.events import EmitterGroup, Event
from napari.utils.notifications import show_warning
from napari.viewer import Viewer
from numpy.typing import NDArray
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QGridLayout, QPushButton, QWidget

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.napari.docks.base import Dock, LayerChoice, PlainLabel
from napari_bloodcell.napari.layers.links import KEY, image_layer_for, is_cells, types_layer_for
from napari_bloodcell.napari.layers.look import cell_at, placement_of
from napari_bloodcell.napari.layers.private import camera_of
from napari_bloodcell.napari.notify import connect_for_life, notify_errors
from napari_bloodcell.napari.session.opening import cells_session, undo_by_key
from napari_bloodcell.napari.session.session import CellsSession

CLICK_PX: Final = 4.0
"""A press that moves at most this far is a click, screen pixels."""
BAND_PX: Final = 2.0
"""Width of the rubber band, screen pixels."""
BAND_COLOUR: Final = "#0b57d0"
"""Visible on glass and on stain, and not the colour of a type."""
_mice: WeakValueDictionary[int, CellsMouse] = WeakValueDictionary()
_keys: WeakKeyDictionary[CellsSession, CellKeys] = WeakKeyDictionary()


class Tool(StrEnum):
    """What the left mouse button does on cells."""

    MOVE = "move"
    CLICK = "click"
    BOX = "box"
    CUT = "cut"
    SELECT = "select"


class CellsMouse:
    """Turns the mouse of a window into events; one tool at a time, whichever dock chose it.

    `events.clicked`, `boxed` and `cut` carry a point (y, x), a box (y0, x0, y1, x1) and a line ((y, x), (y, x)) in
    pixels of the layer; `events.tool` follows when another dock takes a tool. Shift-click selects with every tool.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Layer | None = None
        self._tool = Tool.MOVE
        self._first: NDArray[np.float64] | None = None
        self._band: Shapes | None = None
        self._users: set[int] = set()  # ids: docks are not kept alive
        self._owner = 0
        self.events = EmitterGroup(source=self, clicked=None, boxed=None, cut=None, tool=None)

    @property
    def tool(self) -> Tool:
        """The current tool."""
        return self._tool

    def is_of(self, user: object) -> bool:
        """Return whether a dock owns the current tool."""
        return self._owner == id(user)

    def use(self, tool: Tool, layer: Layer | None, user: object) -> None:
        """Apply a tool to a layer, which becomes active; only its owner can put a tool down (`MOVE`)."""
        if tool is Tool.MOVE and self._tool is not Tool.MOVE and not self.is_of(user):
            return
        if self._layer is not None and self._layer is not layer and self._layer in self._viewer.layers:
            self._layer.mouse_pan = True
        is_other, self._owner = not self.is_of(user), id(user)
        self._tool, self._layer, self._first = tool, layer, None
        if layer is not None and layer in self._viewer.layers:
            if tool is not Tool.MOVE:
                self._viewer.layers.selection.active = layer
                layer.mode = "pan_zoom"
            layer.mouse_pan = tool not in (Tool.BOX, Tool.CUT)
        if is_other:
            self.events.tool()

    def attach(self, user: object) -> None:
        """Follow the mouse for a dock."""
        if not self._users:
            self._viewer.mouse_drag_callbacks.append(self._on_drag)
        self._users.add(id(user))

    def detach(self, user: object) -> None:
        """Stop following the mouse, once no dock needs it."""
        self.use(Tool.MOVE, self._layer, user)
        self._users.discard(id(user))
        if not self._users and self._on_drag in self._viewer.mouse_drag_callbacks:
            self._hide_band()
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)

    def _on_drag(self, viewer: ViewerModel, event: Any) -> Generator[None, None, None]:
        layer, tool = viewer.layers.selection.active, self._tool
        is_selecting = "Shift" in event.modifiers or tool is Tool.SELECT
        if layer is None or event.button != 1 or not (is_selecting or (tool is not Tool.MOVE and layer is self._layer)):
            return
        pressed, start, world = np.array(event.pos, float), _pixel(layer, event), tuple(event.position)
        yield
        while event.type == "mouse_move":
            if tool in (Tool.BOX, Tool.CUT) and not is_selecting:
                self._show_band(layer, start, _pixel(layer, event))
            yield
        end = _pixel(layer, event)
        self._hide_band()
        is_click = bool(np.abs(np.array(event.pos, float) - pressed).max() <= CLICK_PX)
        if is_selecting:
            if is_click and is_cells(layer) and isinstance(layer, Labels) and cell_at(layer, world):
                cells_session(viewer, layer).toggle(cell_at(layer, world))
        elif tool is Tool.CLICK and is_click:
            self.events.clicked(value=_point(start))
        elif tool is Tool.BOX and not is_click:
            low, high = np.minimum(start, end), np.maximum(start, end)
            self.events.boxed(value=(*_point(low), *_point(high)))
        elif tool is Tool.CUT:
            self._on_cut(start, end, is_click=is_click)

    def _on_cut(self, start: NDArray[np.float64], end: NDArray[np.float64], *, is_click: bool) -> None:
        """Cut by one drag, or by two clicks."""
        if is_click and self._first is None:
            self._first = start
            return
        if is_click and self._first is not None:
            start = self._first
        self._first = None
        self.events.cut(value=(_point(start), _point(end)))

    def _show_band(self, layer: Layer, start: NDArray[np.float64], end: NDArray[np.float64]) -> None:
        """Draw the rubber band: a box or a line."""
        corners = [start, end]
        if self._tool is Tool.BOX:
            corners = [start, np.array([start[0], end[1]]), end, np.array([end[0], start[1]])]
        kind = "rectangle" if self._tool is Tool.BOX else "line"
        if self._band is not None:
            self._band.data = [(np.array(corners), kind)]
            return
        self._band = Shapes(
            [np.array(corners)],
            shape_type=kind,
            edge_color=BAND_COLOUR,
            edge_width=BAND_PX / float(camera_of(self._viewer).zoom * layer.scale[-1]),
            opacity=1.0,
            face_color="transparent",
            name="drawing…",
            metadata={KEY: {"kind": "band"}},
            **plane_placement_of(layer),
        )
        self._viewer.add_layer(self._band)
        self._viewer.layers.selection.active = layer

    def _hide_band(self) -> None:
        if self._band is not None and self._band in self._viewer.layers:
            self._viewer.layers.remove(self._band)
        self._band = None


class ToolButtons(QWidget):
    """Buttons in two columns: tools, at most one of them on, and actions.

    `tools` are (tool, text, tooltip), `actions` (text, tooltip).
    """

    tool_chosen = Signal(object)
    """`Tool`; `Tool.MOVE` when a tool is switched off."""
    acted = Signal(str)
    """Name of an action."""

    def __init__(self, tools: Sequence[tuple[Tool, str, str]], actions: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.tools = {tool: QPushButton(text) for tool, text, _ in tools}
        self.actions_by_name = {name: QPushButton(name) for name, _ in actions}
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        for tool, button in self.tools.items():
            button.setCheckable(True)
            button.clicked.connect(partial(self._on_tool, tool))
        for name, button in self.actions_by_name.items():
            button.clicked.connect(partial(self._on_action, name))
        buttons = [*self.tools.values(), *self.actions_by_name.values()]
        for i, (button, (*_, tip)) in enumerate(zip(buttons, [*tools, *actions], strict=True)):
            button.setToolTip(tip)
            grid.addWidget(button, i // 2, i % 2)

    def show_tool(self, tool: Tool) -> None:
        """Show which tool is on."""
        for one, button in self.tools.items():
            button.setChecked(one is tool)

    def enable(self, *, has_cells: bool, can_undo: bool, can_redo: bool) -> None:
        """Enable the actions that are possible."""
        for name, button in self.actions_by_name.items():
            button.setEnabled({"Undo": can_undo, "Redo": can_redo}.get(name, has_cells))

    def _on_tool(self, tool: Tool, is_on: bool) -> None:
        self.tool_chosen.emit(tool if is_on else Tool.MOVE)

    def _on_action(self, name: str, _checked: bool = False) -> None:
        self.acted.emit(name)


class CellKeys:
    """The docks' keys on a cells layer, its types and its image; earlier bindings return on `release`."""

    def __init__(self) -> None:
        self._wanted: dict[int, Mapping[str, Callable[[], object]]] = {}
        self._session: Callable[[], CellsSession | None] = lambda: None
        self._bound: list[tuple[Callable[[], Layer | None], str, Any, Any]] = []

    def bind(self, owner: object, session: CellsSession, actions: Mapping[str, Callable[[], object]]) -> None:
        """Bind keys to actions while one of the layers is active."""
        self._session = ref(session)
        self._wanted[id(owner)] = actions
        self.renew()

    def release(self, owner: object) -> None:
        """Unbind the keys of a dock."""
        if self._wanted.pop(id(owner), None) is not None:
            self.renew()

    def renew(self, _event: object = None) -> None:
        """Bind the keys of all docks anew, as after a layer was added."""
        for find, key, mine, before in reversed(self._bound):
            layer = find()
            if layer is None or not any(f is mine for f in layer.keymap.values()):
                continue  # something else took the key meanwhile
            layer.bind_key(key, None)
            if before is not None:
                layer.bind_key(key, before, overwrite=True)
        self._bound.clear()
        session = self._session()
        if session is None or not self._wanted:
            return
        viewer, cells = session.viewer, session.layer
        others = (types_layer_for(viewer, cells), image_layer_for(viewer, cells))
        for layer in [one for one in (cells, *others) if one is not None]:
            for actions in self._wanted.values():
                for key, action in actions.items():
                    self._bind_one(layer, key, action)
            if layer is not cells:  # the cells layer has them permanently
                self._bind_one(layer, "Control-Z", partial(undo_by_key, self._session, "undo"))
                self._bind_one(layer, "Control-Shift-Z", partial(undo_by_key, self._session, "redo"))

    def _bind_one(self, layer: Layer, key: str, action: Callable[[], object]) -> None:
        def pressed(_layer: Layer) -> None:  # napari needs a function with a name, not a partial
            action()

        before = layer.bind_key(key, None)
        layer.bind_key(key, pressed, overwrite=True)
        self._bound.append((ref(layer), key, pressed, before))


class Consent:
    """Warns before something is done to cells out of view; doing it again goes ahead."""

    def __init__(self) -> None:
        self._asked: tuple[str, bytes] | None = None

    def is_given(self, session: CellsSession, what: str, ids: Sequence[int] | NDArray[np.integer[Any]]) -> bool:
        """Return whether to go ahead with `what`, such as "Delete" or "Type WBC"; warn if not."""
        wanted = np.asarray(ids, np.int64)
        hidden, asked = session.out_of_view(wanted), (what, wanted.tobytes())
        if not len(hidden) or self._asked == asked:
            self._asked = None
            return True
        self._asked = asked
        n = len(wanted)
        which = "The cell" if n == 1 else f"{len(hidden):,} of these {n:,} cells"
        verb = "is" if len(hidden) == 1 else "are"
        show_warning(f"{what}: {which} {verb} out of view. Do it again to go on.")
        return False


class CellsDock(Dock):
    """Base of the docks that change cells by mouse and keys: one session, tools, undo, and a hint of what happened.

    Subclasses build `cells`, `buttons` and `hint` in `build`, and say in `gestures` and `keys` what mouse and keys do.
    """

    tools: ClassVar[Sequence[tuple[Tool, str, str]]]
    idle: ClassVar[str]
    """Hint while no tool is on."""
    selected_hint: ClassVar[str]
    """What can be done with selected cells."""
    no_cells: ClassVar[str]
    """Error if no cells layer is chosen."""
    cells: LayerChoice
    buttons: ToolButtons
    hint: PlainLabel

    def __init__(self, viewer: Viewer) -> None:
        super().__init__(viewer)
        self._session: CellsSession | None = None
        self._consent = Consent()
        self.mouse = mouse_of(self._viewer)
        self.build()
        for name in self.gestures():
            connect_for_life(getattr(self.mouse.events, name), self._on_gesture)
        connect_for_life(self.mouse.events.tool, self._on_tool)
        self.cells.chosen.connect(self._on_layer)

    def build(self) -> None:
        """Make the widgets."""
        raise NotImplementedError

    def gestures(self) -> dict[str, Callable[[Any], None]]:
        """Return what the mouse does, by event of `CellsMouse`."""
        raise NotImplementedError

    def keys(self) -> dict[str, Callable[[], object]]:
        """Return what keys do on the layers."""
        raise NotImplementedError

    @property
    def session(self) -> CellsSession:
        """The session of the chosen layer; raises `InputError` if no cells layer is chosen."""
        if self._session is None:
            raise InputError(self.no_cells)
        return self._session

    def use_tool(self, tool: Tool) -> None:
        """Choose a tool; `Tool.MOVE` leaves the mouse to napari."""
        self.buttons.show_tool(tool)
        self.mouse.use(tool, self.cells.layer, self)
        self.hint.setText(next((tip for one, _, tip in self.tools if one is tool), self.idle))

    def act(self, name: str) -> None:
        """Do what a button says."""
        if name == "Select none":
            self.session.select([])
        elif name in ("Undo", "Redo"):
            undo_by_key(lambda: self.session, name.lower())

    def on_wake(self) -> None:
        """Follow mouse and keys."""
        self.mouse.attach(self)
        self._on_layer()

    def on_rest(self) -> None:
        """Release mouse and keys."""
        self.use_tool(Tool.MOVE)
        self.mouse.detach(self)
        self._leave()

    def _on_layer(self) -> None:
        """Switch to another layer."""
        raise NotImplementedError

    def _slots(self) -> dict[str, Callable[[Event], None]]:
        """Return which events of the session are followed."""
        return {**dict.fromkeys(("done", "undone", "redone"), self._on_change), "selection": self._on_selection}

    def _enter(self, layer: Labels) -> None:
        self._session = cells_session(self._viewer, layer)
        for name, slot in self._slots().items():
            getattr(self._session.events, name).connect(slot)
        self._bind_keys()

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            keys_of(session).release(self)
            for name, slot in self._slots().items():
                getattr(session.events, name).disconnect(slot)

    def _bind_keys(self) -> None:
        keys_of(self.session).bind(self, self.session, self.keys())

    def _on_key(self, method: Callable[[Any], None], value: Any) -> None:
        notify_errors(partial(method, value))

    def _on_change(self, event: Event) -> None:
        told = describe_change(event)
        self.hint.setText(told)
        self._viewer.status = told  # it described the cell as it was
        self._show_state()

    def _on_selection(self, _event: Event) -> None:
        told = describe_selection(self.session)
        self.hint.setText(f"{told}: {self.selected_hint}" if told else self.idle)

    def _on_gesture(self, event: Event) -> None:
        if self.mouse.is_of(self):
            notify_errors(partial(self.gestures()[event.type], event.value))

    def _on_tool(self, _event: Event) -> None:
        if not self.mouse.is_of(self):
            self.buttons.show_tool(Tool.MOVE)

    def _show_state(self) -> None:
        history = self._session.history if self._session is not None else None
        for buttons in self.findChildren(ToolButtons):
            buttons.enable(
                has_cells=history is not None,
                can_undo=history is not None and bool(history.done),
                can_redo=history is not None and bool(history.undone),
            )


def plane_placement_of(layer: Layer) -> dict[str, Any]:
    """Return the placement of a layer's planes, for shapes on any of them."""
    of_axes = ("scale", "translate", "units", "axis_labels")
    place = placement_of(layer)
    return {k: v[-2:] if k in of_axes else v for k, v in place.items() if k in of_axes or layer.ndim == 2}


def mouse_of(viewer: ViewerModel) -> CellsMouse:
    """Return the mouse shared by the docks of a window; it lives as long as one of them."""
    mouse = _mice.get(id(viewer))
    if mouse is None or mouse._viewer is not viewer:
        mouse = _mice[id(viewer)] = CellsMouse(viewer)
    return mouse


def keys_of(session: CellsSession) -> CellKeys:
    """Return the keys shared by the docks on a session's cells."""
    return _keys.setdefault(session, CellKeys())


def describe_selection(session: CellsSession) -> str:
    """Return "5 cells selected, 2 of them out of view"; "" for none."""
    selected = session.selected
    if not len(selected):
        return ""
    n_hidden = len(session.out_of_view(selected))
    hidden = f", {n_hidden:,} of them out of view" if n_hidden else ""
    return f"{len(selected):,} cell{'' if len(selected) == 1 else 's'} selected{hidden}"


def describe_change(event: Event) -> str:
    """Return a sentence about a session's change."""
    text: str = {"undone": "Undone: ", "redone": "Redone: "}.get(event.type, "") + event.value.what
    return text[:1].upper() + text[1:]


def _pixel(layer: Layer, event: Any) -> NDArray[np.float64]:
    return np.asarray(layer.world_to_data(np.asarray(event.position))[-2:], np.float64)


def _point(place: NDArray[np.float64]) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def cell_on_line(cells: NDArray[np.integer[Any]], line: tuple[tuple[float, float], tuple[float, float]]) -> int:
    """Return the cell of a plane (Y, X) with the longest part of a line on it; 0 for none."""
    start, end = np.asarray(line, float)
    n_steps = int(np.ceil(2 * np.abs(end - start).max())) + 1
    places = np.round(np.linspace(start, end, n_steps)).astype(int)
    inside = np.all((places >= 0) & (places < cells.shape), axis=1)
    places = places[inside]
    if not len(places):
        return 0
    low, high = places.min(0), places.max(0) + 1
    window = np.asarray(cells[low[0] : high[0], low[1] : high[1]])
    ids, numbers = np.unique(window[tuple((places - low).T)], return_counts=True)
    numbers[ids == 0] = 0
    return int(ids[numbers.argmax()]) if numbers.any() else 0
