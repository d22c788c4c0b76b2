"""The mouse on a layer of cells: clicks, boxes, cuts and selections, as events of what the user meant."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from napari.layers import Labels, Shapes
from napari.utils.events import EmitterGroup

from napari_bloodcell.napari.layers.cells import KEY, placement_of
from napari_bloodcell.napari.layers.look import cell_at

if TYPE_CHECKING:
    from collections.abc import Generator

    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

CLICK_PX: Final = 4.0
"""A press that moves no further than this is a click, pixels of the screen."""

BAND_PX: Final = 2.0
"""Width of the box or line that is being drawn, pixels of the screen."""
BAND_COLOUR: Final = "#0b57d0"
"""Its colour: seen on glass and on stain, and of no type."""


class Tool(StrEnum):
    """What the left mouse button does on the cells."""

    MOVE = "move"
    CLICK = "click"
    BOX = "box"
    CUT = "cut"
    SELECT = "select"


class EditTools:
    """Turns the mouse into events, while its layer is the viewer's active one.

    `events` are `clicked`, `boxed`, `cut` and `selected`; their values a point (y, x), a box (y0, x0, y1, x1), a line
    ((y, x), (y, x)), all in pixels of the layer, and the id of a cell. Shift-click selects with every tool.
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Layer | None = None
        self._tool = Tool.MOVE
        self._first: NDArray[np.float64] | None = None
        self._band: Shapes | None = None
        self.events = EmitterGroup(source=self, clicked=None, boxed=None, cut=None, selected=None)

    @property
    def tool(self) -> Tool:
        """What the mouse does now."""
        return self._tool

    def use(self, tool: Tool, layer: Layer | None) -> None:
        """Take a tool to a layer, which becomes the active one."""
        if self._layer is not None and self._layer is not layer and self._layer in self._viewer.layers:
            self._layer.mouse_pan = True
        self._tool, self._layer, self._first = tool, layer, None
        if layer is None or layer not in self._viewer.layers:
            return
        if tool is not Tool.MOVE:
            self._viewer.layers.selection.active = layer
            layer.mode = "pan_zoom"
        layer.mouse_pan = tool not in (Tool.BOX, Tool.CUT)

    def attach(self) -> None:
        """Listen to the viewer's mouse."""
        if self._on_drag not in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.append(self._on_drag)

    def detach(self) -> None:
        """Leave the mouse alone."""
        self.use(Tool.MOVE, self._layer)
        self._hide_band()
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)

    def _on_drag(self, viewer: ViewerModel, event: Any) -> Generator[None, None, None]:
        layer = self._layer
        has_shift = "Shift" in event.modifiers
        if layer is None or viewer.layers.selection.active is not layer or event.button != 1:
            return
        if self._tool is Tool.MOVE and not has_shift:
            return
        pressed, start, world = np.array(event.pos, float), self._pixel(event), tuple(event.position)
        yield
        while event.type == "mouse_move":
            if self._tool in (Tool.BOX, Tool.CUT) and not has_shift:
                self._show_band(layer, start, self._pixel(event))
            yield
        end = self._pixel(event)
        self._hide_band()
        is_click = bool(np.abs(np.array(event.pos, float) - pressed).max() <= CLICK_PX)
        if is_click and (has_shift or self._tool is Tool.SELECT):
            cell = cell_at(layer, world) if isinstance(layer, Labels) else 0
            if cell:
                self.events.selected(value=cell)
        elif self._tool is Tool.CLICK and is_click:
            self.events.clicked(value=_point(start))
        elif self._tool is Tool.BOX and not is_click:
            low, high = np.minimum(start, end), np.maximum(start, end)
            self.events.boxed(value=(*_point(low), *_point(high)))
        elif self._tool is Tool.CUT:
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

    def _pixel(self, event: Any) -> NDArray[np.float64]:
        layer = self._layer
        if layer is None:
            return np.zeros(2)
        return np.asarray(layer.world_to_data(np.asarray(event.position))[-2:], np.float64)

    def _show_band(self, layer: Layer, start: NDArray[np.float64], end: NDArray[np.float64]) -> None:
        """Draw the box or the line that is being drawn."""
        corners = [start, end]
        if self._tool is Tool.BOX:
            corners = [start, np.array([start[0], end[1]]), end, np.array([end[0], start[1]])]
        kind = "rectangle" if self._tool is Tool.BOX else "line"
        if self._band is not None:
            self._band.data = [(np.array(corners), kind)]
            return
        place = {
            name: value[-2:] if name in ("scale", "translate", "units", "axis_labels") else value
            for name, value in placement_of(layer).items()
            if name in ("scale", "translate", "units", "axis_labels") or layer.ndim == 2
        }
        self._band = Shapes(
            [np.array(corners)],
            shape_type=kind,
            edge_color=BAND_COLOUR,
            edge_width=BAND_PX / float(self._viewer.scene.camera.zoom * layer.scale[-1]),
            opacity=1.0,
            face_color="transparent",
            name="drawing…",
            metadata={KEY: {"kind": "band"}},
            **place,
        )
        self._viewer.add_layer(self._band)
        self._viewer.layers.selection.active = layer

    def _hide_band(self) -> None:
        if self._band is not None and self._band in self._viewer.layers:
            self._viewer.layers.remove(self._band)
        self._band = None


def _point(place: NDArray[np.float64]) -> tuple[float, float]:
    return float(place[0]), float(place[1])


def cell_on_line(cells: NDArray[np.integer[Any]], line: tuple[tuple[float, float], tuple[float, float]]) -> int:
    """Return the cell of a plane (Y, X) that a line crosses longest; 0 for none."""
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
