"""What edits and reviews of a layer of cells share: the layer and its viewer, neither of which they keep alive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self
from weakref import ref

from napari_bloodcell.core.errors import InputError

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels


class CellsSession:
    """Work on one layer of cells."""

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        self._viewer, self._layer = ref(viewer), ref(cells_layer)

    def is_of(self, viewer: ViewerModel, cells_layer: Labels) -> bool:
        """Return whether this is work on that layer in that viewer."""
        return self._layer() is cells_layer and self._viewer() is viewer

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return this one: a layer that was duplicated gets its own session when it is worked on."""
        return self

    @property
    def layer(self) -> Labels:
        """The cells layer."""
        layer = self._layer()
        if layer is None:
            raise InputError("The layer of these cells is gone.")
        return layer

    @property
    def viewer(self) -> ViewerModel:
        """The viewer."""
        viewer = self._viewer()
        if viewer is None:
            raise InputError("The window of these cells is closed.")
        return viewer
