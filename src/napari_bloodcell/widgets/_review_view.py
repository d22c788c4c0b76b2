"""Goes to a cell: the view is centred on it, and it is outlined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from napari_bloodcell.widgets._highlight import select_cells
from napari_bloodcell.widgets._layers import full_resolution
from napari_bloodcell.widgets._review_cutouts import places_of

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Labels

TOO_SMALL_PX: Final = 24.0
"""A cell that is narrower than this on the screen cannot be judged: the view is zoomed to it."""
READABLE_PX: Final = 72.0
"""It is then about this wide."""


def show_cell(viewer: ViewerModel, cells_layer: Labels, cell: int) -> bool:
    """Centre the view on a cell and outline it; the zoom stays where the cell is large enough to be judged.

    Returns
    -------
    bool
        Whether the cell is there.
    """
    stack = full_resolution(cells_layer).shape[:-2]
    found = places_of(cells_layer.features, [cell], stack).get(cell)
    if found is None:
        return False
    (y0, x0, y1, x1), plane = found
    show_place(viewer, cells_layer, ((y0 + y1) / 2 - 0.5, (x0 + x1) / 2 - 0.5), max(y1 - y0, x1 - x0), plane)
    select_cells(viewer, cells_layer, [cell])
    return True


def show_place(
    viewer: ViewerModel,
    cells_layer: Labels,
    centre: tuple[float, float],
    width_px: float,
    plane: tuple[int, ...] = (),
) -> None:
    """Centre the view on a place (y, x), pixels of a layer, and zoom in where `width_px` would hardly be seen."""
    world = np.asarray(cells_layer.data_to_world((*plane, *centre)), np.float64)
    if plane:
        viewer.dims.set_point(range(len(plane)), world[: len(plane)])
    camera = viewer.scene.camera
    on_screen = width_px * float(np.abs(cells_layer.scale[-1])) * camera.zoom
    if on_screen < TOO_SMALL_PX:
        camera.zoom *= READABLE_PX / max(on_screen, 1e-9)
    camera.center = (camera.center[0], *(float(w) for w in world[-2:]))
