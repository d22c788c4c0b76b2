"""How the program's layers look and where they lie: colours by type, places in the world, levels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QCoreApplication, QTimer

from napari_bloodcell.widgets._preferences import colour_of
from napari_bloodcell.widgets._status import show_status_of
from napari_bloodcell.widgets._texture import draw_quickly

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from napari.layers import Labels, Layer
    from numpy.typing import NDArray

MOST_PIXELS_IN_ONE: Final = 4096 * 4096
"""A larger plane is shown as a pyramid, so that drawing follows the screen and not the smear."""
COARSEST_PX: Final = 1024
"""Levels are added to a pyramid until none of its sides is longer."""
TOOLS_AFTER_MS: Final = 50
"""How long the first of napari's painting tools waits after its layer; the next one as long again."""


def type_colormap(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> DirectLabelColormap:
    """Return the colours of typed layers: few, by type, never by cell; `chosen` ones go before the usual."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    colours |= {code: (chosen or {}).get(name) or colour_of(name, names) for code, name in enumerate(names, start=1)}
    return DirectLabelColormap(color_dict=colours)


def placement_of(layer: Layer) -> Mapping[str, Any]:
    """Return where a layer lies in the world, as arguments of another layer's constructor."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def pyramid_of(cells: NDArray[np.int32], *, is_pyramid: bool) -> Any:
    """Return labels as they are, or a pyramid of views of them: what is written to the first shows in all."""
    height, width = cells.shape[-2:]
    if not is_pyramid and height * width <= MOST_PIXELS_IN_ONE:
        return cells
    levels = [cells]
    while max(levels[-1].shape[-2:]) > COARSEST_PX:
        levels.append(levels[-1][..., ::2, ::2])
    return levels if len(levels) > 1 else cells


def show_as_cells(cells_layer: Labels) -> None:
    """Let the status bar tell of the cells of a layer, and draw it quickly."""
    show_status_of(cells_layer, cells_layer)
    draw_quickly(cells_layer)


def outline_when_shown(cells_layer: Labels, layer: Labels) -> None:
    """Draw cells as outlines from the moment on that their types are shown beneath them."""

    def outline() -> None:
        cells_layer.contour = cells_layer.contour or 1

    def on_shown(_event: object = None) -> None:
        layer.events.visible.disconnect(on_shown)
        if QCoreApplication.instance() is None:
            outline()
        else:  # to draw both at once would hold the window up
            QTimer.singleShot(0, outline)

    if layer.visible:
        outline()
    else:
        layer.events.visible.connect(on_shown)


def show_tools_later(layer: Labels) -> None:
    """Let napari make the marks of brush and polygon one by one after a layer was added: half of what that takes."""
    if QCoreApplication.instance() is None:
        return
    shown = [overlay for overlay in layer._overlays.values() if overlay.visible]
    for number, overlay in enumerate(shown, start=1):
        overlay.visible = False  # napari makes what is visible
        QTimer.singleShot(number * TOOLS_AFTER_MS, partial(setattr, overlay, "visible", True))
