"""Mouse and keys of a review: what the user means with them, as events."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

import numpy as np
from napari.utils.events import EmitterGroup

from napari_bloodcell.napari.docks.mouse import EditTools, Tool
from napari_bloodcell.napari.docks.review.walk import cells_in_box
from napari_bloodcell.napari.layers import cells as layers
from napari_bloodcell.napari.layers import selection
from napari_bloodcell.napari.layers.look import cell_at

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari.components import ViewerModel
    from napari.layers import Labels, Layer
    from napari.utils.events import Event


class ReviewHands:
    """Follows mouse and keys on a cells layer, its types and its image.

    `events` are `clicked` (value: id of a cell), `pressed` (name of a class), `acted` ("next", "back", "undo",
    "redo") and `selected` (how many cells a box holds; they are outlined already).
    """

    def __init__(self, viewer: ViewerModel) -> None:
        self._viewer = viewer
        self._layer: Labels | None = None
        self._keys = LayerKeys()
        self.tools = EditTools(viewer)
        self.hovered = 0
        """The cell under the mouse; 0 where there is none, or the mouse did not move since the view did."""
        self.events = EmitterGroup(source=self, clicked=None, pressed=None, acted=None, selected=None)
        self.tools.events.clicked.connect(self._on_clicked)
        self.tools.events.boxed.connect(self._on_boxed)
        self.tools.events.selected.connect(self._on_toggled)

    def attach(self) -> None:
        """Listen to the mouse."""
        self.tools.attach()
        self._viewer.mouse_move_callbacks.append(self._on_hover)

    def detach(self) -> None:
        """Leave mouse and keys alone."""
        self.tools.use(Tool.MOVE, self._layer)
        self.tools.detach()
        self._viewer.mouse_move_callbacks.remove(self._on_hover)

    def take(self, layer: Labels | None, keys: Mapping[str, str]) -> None:
        """Turn to a layer, with these keys of classes; None: to no layer."""
        self._layer, self.hovered = layer, 0
        if layer is None:
            self._keys.release()
            return
        linked = [layer, layers.types_layer_for(self._viewer, layer), layers.image_layer_for(self._viewer, layer)]
        named = {".": "next", ",": "back", "Control-Z": "undo", "Control-Shift-Z": "redo"}
        actions: dict[str, Any] = {key: partial(self.events.acted, value=name) for key, name in named.items()}
        actions |= {key: partial(self.events.pressed, value=name) for key, name in keys.items()}
        self._keys.bind([one for one in linked if one is not None], actions)

    def _on_hover(self, _viewer: Any, event: Any) -> None:
        layer = self._layer
        self.hovered = cell_at(layer, event.position) if layer is not None else 0

    def _on_clicked(self, event: Event) -> None:
        if self._layer is None:
            return
        y, x = (round(v) for v in event.value)
        cells = layers.full_resolution(self._layer)
        if 0 <= y < cells.shape[-2] and 0 <= x < cells.shape[-1]:
            cell = int(np.asarray(cells[(*layers.current_plane(self._viewer, self._layer), y, x)]))
            if cell:
                self.events.clicked(value=cell)

    def _on_boxed(self, event: Event) -> None:
        if self._layer is None:
            return
        stack = layers.full_resolution(self._layer).shape[:-2]
        plane = layers.plane_number(layers.current_plane(self._viewer, self._layer), stack) if stack else None
        inside = cells_in_box(self._layer.features, event.value, plane=plane)
        selection.select_cells(self._viewer, self._layer, inside)
        self.events.selected(value=len(inside))

    def _on_toggled(self, event: Event) -> None:
        if self._layer is not None:
            selection.toggle_cell(self._viewer, self._layer, event.value)


class LayerKeys:
    """Binds keys on some layers; what they were bound to before comes back with `release`."""

    def __init__(self) -> None:
        self._bound: list[tuple[Callable[[], Layer | None], str, Any, Any]] = []

    def bind(self, bound_layers: Sequence[Layer], actions: Mapping[str, Callable[[], object]]) -> None:
        """Let keys do these things while one of the layers is the active one."""
        self.release()
        for layer in bound_layers:
            for key, action in actions.items():
                before = layer.bind_key(key, None)

                def pressed(_layer: Layer, action: Callable[[], object] = action) -> None:
                    action()

                layer.bind_key(key, pressed, overwrite=True)
                self._bound.append((ref(layer), key, pressed, before))

    def release(self) -> None:
        """Give the keys back; those that something else took meanwhile are left alone."""
        for find, key, mine, before in reversed(self._bound):
            layer = find()
            if layer is None or not any(f is mine for f in layer.keymap.values()):
                continue
            layer.bind_key(key, None)
            if before is not None:
                layer.bind_key(key, before, overwrite=True)
        self._bound.clear()
