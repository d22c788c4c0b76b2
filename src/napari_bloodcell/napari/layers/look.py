"""How the program's layers look and where they lie: colours by type, places in the world, levels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.transforms import Affine

from napari_bloodcell.napari.event_loop import running_app, soon
from napari_bloodcell.napari.layers import private
from napari_bloodcell.napari.layers.drawing import draw_quickly
from napari_bloodcell.napari.layers.features import rows_of
from napari_bloodcell.napari.layers.links import calibration_of, colours_of, names_of
from napari_bloodcell.napari.layers.types import UNTYPED
from napari_bloodcell.napari.preferences import colour_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from napari.components import ViewerModel
    from napari.layers import Layer
    from numpy.typing import NDArray

    from napari_bloodcell.napari.layers.types import TypeLookup


MOST_PIXELS_IN_ONE: Final = 4096 * 4096
"""A larger plane is shown as a pyramid, so that drawing follows the screen and not the smear."""
COARSEST_PX: Final = 1024
"""Levels are added to a pyramid until none of its sides is longer."""
OUTLINE_PX: Final = 1.5
"""Width of outlines, pixels of the screen, as nearly as whole pixels of the image allow."""
FILLED_BELOW_PX: Final = 12
"""Red cells that are narrower on screen are filled: outlines would hide them."""
CELLS_OPACITY: Final = 0.85
UNTYPED_COLOUR: Final = "#38bdf8"
HIDING_KEY: Final = "H"
_OUTLINES: Final = "napari_bloodcell_outlines"
TOOLS_AFTER_MS: Final = 50
"""How long the first of napari's painting tools waits after its layer; the next one as long again."""


def type_colours(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[int | None, Any]:
    """Return the colours of types by code; `chosen` ones go before the usual."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent", int(UNTYPED): UNTYPED_COLOUR}
    return colours | {code: (chosen or {}).get(name) or colour_of(name, names) for code, name in enumerate(names, 1)}


def type_colormap(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> DirectLabelColormap:
    """Return the colours of typed layers: few, by type, never by cell."""
    return DirectLabelColormap(color_dict=type_colours(names, chosen))


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


def show_as_cells(cells_layer: Labels, lookup: TypeLookup) -> None:
    """Draw cells in the colours of their types, quickly, and let the status bar tell of them."""
    show_status_of(cells_layer, cells_layer)
    draw_quickly(cells_layer)
    lookup.colour(cells_layer, type_colours(names_of(cells_layer), colours_of(cells_layer)))


def outline_width(screen_px: float, *, diameter_px: float) -> int:
    """Return how wide outlines are, pixels of the image; 0, that is filled cells, where these are tiny on screen.

    Parameters
    ----------
    screen_px : float
        Pixels of the screen that one of the image takes.
    diameter_px : float
        Width of a red cell, pixels of the image.
    """
    if screen_px * diameter_px < FILLED_BELOW_PX:
        return 0
    return max(1, round(OUTLINE_PX / screen_px + 0.01))


class Outlines:
    """Keeps the outlines of a cells layer equally wide on screen, unless the user chose another width."""

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        self._layer, self._camera, self._width = ref(cells_layer), viewer.scene.camera, cells_layer.contour
        self._camera.events.zoom.connect(self.fit)  # napari does not hold on to this object
        self.fit()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Return nothing: a layer that was duplicated gets its own."""

    def fit(self, _event: object = None) -> None:
        """Take the width that belongs to the zoom."""
        layer = self._layer()
        if layer is None or layer.contour != self._width:
            return
        screen_px = float(self._camera.zoom * layer.scale[-1])
        width = outline_width(screen_px, diameter_px=calibration_of(layer).rbc_diameter_px)
        if layer.multiscale and width:  # of the level that napari shows, whose pixels are about those of the screen
            width = round(OUTLINE_PX)
        if width != self._width:
            self._width = layer.contour = width


def follow_view(viewer: ViewerModel, cells_layer: Labels) -> None:
    """Let outlines follow the zoom, and hide everything that lies on the images while `HIDING_KEY` is held."""
    if not isinstance(cells_layer.metadata.get(_OUTLINES), Outlines):
        cells_layer.metadata[_OUTLINES] = Outlines(viewer, cells_layer)
    viewer.bind_key(HIDING_KEY, hide_while_held, overwrite=True)


def hide_while_held(viewer: ViewerModel) -> Iterator[None]:
    """Hide all layers of cells until the key is released."""
    hidden = [(layer, layer.opacity) for layer in viewer.layers if isinstance(layer, Labels)]
    for layer, _ in hidden:
        layer.opacity = 0  # unlike `visible`, nothing is read again afterwards
    yield
    for layer, opacity in hidden:
        layer.opacity = opacity


def show_tools_later(layer: Labels) -> None:
    """Let napari make the marks of brush and polygon one by one after a layer was added: half of what that takes."""
    if running_app() is None:
        return
    shown = [mark for mark in private.marks_of(layer) if mark.visible]
    for number, mark in enumerate(shown, start=1):
        mark.visible = False  # napari makes what is visible
        soon(partial(setattr, mark, "visible", True), number * TOOLS_AFTER_MS)


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
    status = private.status_by_napari(layer, position, **options)
    if position is None:
        return status
    told = describe_cell(cells_layer, cell_at(cells_layer, position))
    place = ", ".join(f"{round(float(p))}" for p in layer.world_to_data(np.asarray(position)))
    status["value"] = f": {told}" if told else ""
    status["coordinates"] = f" [{place}]: {told}" if told else f" [{place}]"
    return status


def show_status_of(layer: Labels, cells_layer: Labels) -> None:
    """Let the status bar tell id, type and probability of the cell under the mouse."""
    private.tell_status_by(layer, partial(cell_status, layer, cells_layer))


def moved_placement(layer: Layer, corner: tuple[int, int]) -> dict[str, Any]:
    """Return `translate` of a layer whose first pixel is the pixel `corner` (y, x) of another one."""
    matrix = Affine(scale=layer.scale[-2:], rotate=layer.rotate[-2:, -2:], shear=layer.shear[-1:]).linear_matrix
    return {"translate": np.asarray(layer.translate[-2:]) + matrix @ np.asarray(corner, float)}
