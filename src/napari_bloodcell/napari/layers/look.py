"""How the program's layers look and where they lie: colours by type, places in the world, levels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine

from napari_bloodcell.napari.layers.drawing import draw_quickly
from napari_bloodcell.napari.layers.event_loop import running_app, soon
from napari_bloodcell.napari.layers.features import rows_of
from napari_bloodcell.napari.preferences import colour_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from napari.layers import Layer
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
        soon(outline)  # to draw both at once would hold a window up

    if layer.visible:
        outline()
    else:
        layer.events.visible.connect(on_shown)


def show_tools_later(layer: Labels) -> None:
    """Let napari make the marks of brush and polygon one by one after a layer was added: half of what that takes."""
    if running_app() is None:
        return
    shown = [overlay for overlay in layer._overlays.values() if overlay.visible]
    for number, overlay in enumerate(shown, start=1):
        overlay.visible = False  # napari makes what is visible
        soon(partial(setattr, overlay, "visible", True), number * TOOLS_AFTER_MS)


def cell_at(cells_layer: Labels, position: Sequence[float]) -> int:
    """Return the id of the cell at a position in the world, exactly, at any zoom; 0 where there is none."""
    ids = cells_layer.data[0] if cells_layer.multiscale else cells_layer.data
    pixel = np.round(np.asarray(cells_layer.world_to_data(np.asarray(position)))).astype(int)[-len(ids.shape) :]
    if len(pixel) != len(ids.shape) or np.any(pixel < 0) or np.any(pixel >= ids.shape):
        return 0
    return int(np.asarray(ids[tuple(pixel)]))


def describe_cell(cells_layer: Labels, cell: int) -> str:
    """Return "cell 12: RBC, 98 %", as far as it is known; "" for the background."""
    if not cell:
        return ""
    features = cells_layer.features
    rows = rows_of(features, [cell]) if "index" in features.columns else np.empty(0, np.intp)
    if not rows.size or "cell_type" not in features.columns:
        return f"cell {cell}"
    name, probability = features["cell_type"].iat[rows[0]], features["probability"].iat[rows[0]]
    if not name:
        return f"cell {cell}: no type yet"
    by_hand = features["type_source"].iat[rows[0]] == "user" if "type_source" in features.columns else False
    sure = "set by hand" if by_hand else f"{100 * probability:.1f} %"
    return f"cell {cell}: {name}, {sure}"


def cell_status(layer: Labels, cells_layer: Labels, position: Any = None, **options: Any) -> dict[str, Any]:
    """Do as ``Labels.get_status`` of `layer`, telling of the cell instead of every column of its table."""
    status: dict[str, Any] = super(Labels, layer).get_status(position, **options)
    if position is None:
        return status
    told = describe_cell(cells_layer, cell_at(cells_layer, position))
    place = ", ".join(f"{round(float(p))}" for p in layer.world_to_data(np.asarray(position)))
    status["value"] = f": {told}" if told else ""
    status["coordinates"] = f" [{place}]: {told}" if told else f" [{place}]"
    return status


def show_status_of(layer: Labels, cells_layer: Labels) -> None:
    """Let the status bar tell id, type and probability of the cell under the mouse."""
    layer.__dict__["get_status"] = partial(cell_status, layer, cells_layer)


def moved_placement(layer: Layer, corner: tuple[int, int]) -> dict[str, Any]:
    """Return `translate` of a layer whose first pixel is the pixel `corner` (y, x) of another one."""
    matrix = Affine(scale=layer.scale[-2:], rotate=layer.rotate[-2:, -2:], shear=layer.shear[-1:]).linear_matrix
    return {"translate": np.asarray(layer.translate[-2:]) + matrix @ np.asarray(corner, float)}
