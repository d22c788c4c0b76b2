"""Keys on layers that are given back as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from napari.layers import Layer


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
