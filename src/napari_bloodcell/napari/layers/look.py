"""How the plugin's layers look and where they lie: colours, outlines, placement, pyramid levels, status bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from weakref import ref

import numpy as np
import pandas as pd
from napari.components import ViewerModel
from napari.layers import Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color
from napari.utils.transforms import Affine
from numpy.typing import NDArray

from napari_bloodcell.core.cells import NO_KIND_COLOUR, kind_colour, split_name
from napari_bloodcell.napari.event_loop import running_app, soon
from napari_bloodcell.napari.layers import private
from napari_bloodcell.napari.layers.drawing import draw_quickly
from napari_bloodcell.napari.layers.features import rows_of
from napari_bloodcell.napari.layers.links import (
    calibration_of,
    colours_of,
    info_of,
    is_by_kind,
    kinds_of,
    names_of,
)
from napari_bloodcell.napari.layers.types import UNTYPED, TypeLookup
from napari_bloodcell.napari.preferences import colour_of

MOST_PIXELS_IN_ONE: Final = 4096 * 4096
"""A larger plane is shown as a pyramid, so that drawing time depends on the screen, not on the smear."""
COARSEST_PX: Final = 1024
"""A pyramid gets coarser levels until no side is longer than this."""
OUTLINE_PX: Final = 1.5
"""Width of outlines in screen pixels, as nearly as whole image pixels allow."""
FILLED_BELOW_PX: Final = 12
"""Red cells narrower than this on screen are filled, because outlines would hide them."""
CELLS_OPACITY: Final = 0.85
LAST_KIND: Final = int(UNTYPED) - 1
UNTYPED_COLOUR: Final = "#38bdf8"
HIDING_KEY: Final = "H"
DIMMED_ALPHA: Final = 0.15
"""Opacity of the classes that are not brought out, relative to the layer's."""
_BROUGHT_OUT: Final = "brought_out"
_OUTLINES: Final = "napari_bloodcell_outlines"
TOOLS_AFTER_MS: Final = 50
"""Delay of napari's first painting tool after its layer, and between one tool and the next."""


def type_colours(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> dict[int | None, Any]:
    """Return colours by class code; `chosen` overrides the defaults."""
    colours: dict[int | None, Any] = {None: "transparent", 0: "transparent", int(UNTYPED): UNTYPED_COLOUR}
    return colours | {code: (chosen or {}).get(name) or colour_of(name, names) for code, name in enumerate(names, 1)}


def type_colormap(names: Sequence[str], chosen: Mapping[str, str] | None = None) -> DirectLabelColormap:
    """Return the colormap of a types layer."""
    return DirectLabelColormap(color_dict=type_colours(names, chosen))


def colours_shown(cells_layer: Labels) -> dict[int | None, Any]:
    """Return the colours of a cells layer by the codes that its lookup table shows: those of types, or of kinds."""
    names, chosen = names_of(cells_layer), colours_of(cells_layer)
    colours = type_colours(names, chosen)
    if not is_by_kind(cells_layer):
        return colours
    colours |= dict.fromkeys(range(1, len(names) + 1), NO_KIND_COLOUR)
    of_kinds = kind_colours(cells_layer)
    return colours | {kind_code(k): chosen.get(name) or colour for k, (name, colour) in enumerate(of_kinds.items())}


def kind_colours(cells_layer: Labels) -> dict[str, str]:
    """Return the default colours of the kinds of a layer by their full names, in the order of their codes."""
    kinds = kinds_of(cells_layer)
    return {name: kind_colour(name, kinds) for name in kinds}


def kind_code(position: int) -> int:
    """Return the code of a kind by its position among all: from the top, as those of types begin at 1."""
    return LAST_KIND - position


def placement_of(layer: Layer) -> Mapping[str, Any]:
    """Return a layer's placement in the world as constructor arguments for another layer."""
    return {
        "scale": layer.scale,
        "translate": layer.translate,
        "rotate": layer.rotate,
        "shear": layer.shear,
        "affine": layer.affine,
        "units": layer.units,
        "axis_labels": layer.axis_labels,
    }


def lay_over(layer: Layer, image_layer: Layer) -> None:
    """Give a layer that nobody placed, such as labels from a file, the placement of its image."""
    is_placed = not np.allclose(layer.scale, 1) or bool(np.any(layer.translate))
    if is_placed or layer.ndim != image_layer.ndim or np.allclose(image_layer.scale, 1):
        return
    for name, value in placement_of(image_layer).items():
        setattr(layer, name, value)


def pyramid_of(cells: NDArray[np.int32], *, is_pyramid: bool) -> Any:
    """Return labels as they are, or as a pyramid of views into them: writing to the first level changes all."""
    height, width = cells.shape[-2:]
    if not is_pyramid and height * width <= MOST_PIXELS_IN_ONE:
        return cells
    levels = [cells]
    while max(levels[-1].shape[-2:]) > COARSEST_PX:
        levels.append(levels[-1][..., ::2, ::2])
    return levels if len(levels) > 1 else cells


def show_as_cells(cells_layer: Labels, lookup: TypeLookup) -> None:
    """Draw cells in the colours of their types, with fast textures, and describe them in the status bar."""
    show_status_of(cells_layer, cells_layer)
    draw_quickly(cells_layer)
    lookup.by_kind = is_by_kind(cells_layer)
    colours, class_name = colours_shown(cells_layer), info_of(cells_layer).get(_BROUGHT_OUT)
    names, kinds = names_of(cells_layer), kinds_of(cells_layer)
    if class_name in names:
        bright = {kind_code(k) for k, name in enumerate(kinds) if split_name(name)[0] == class_name}
        colours = _dimmed(colours, {names.index(class_name) + 1} | bright)
    lookup.colour(cells_layer, colours)


def bring_out(cells_layer: Labels, lookup: TypeLookup, class_name: str | None) -> None:
    """Dim the outlines of all other classes; None: of no class."""
    info_of(cells_layer)[_BROUGHT_OUT] = class_name
    show_as_cells(cells_layer, lookup)


def _dimmed(colours: dict[int | None, Any], bright: set[int]) -> dict[int | None, Any]:
    """Return the colours with all but those of some codes made faint."""
    faint: dict[int | None, Any] = {}
    for key, colour in colours.items():
        red, green, blue, alpha = transform_color(colour)[0].tolist()
        faint[key] = colour if key in bright else (red, green, blue, alpha * DIMMED_ALPHA)
    return faint


def outline_width(screen_px: float, *, diameter_px: float) -> int:
    """Return the width of outlines in image pixels; 0 (filled cells) if red cells are tiny on screen.

    `screen_px` is the size of an image pixel on screen, `diameter_px` the width of a red cell in image pixels.
    """
    if screen_px * diameter_px < FILLED_BELOW_PX:
        return 0
    return max(1, round(OUTLINE_PX / screen_px + 0.01))


class Outlines:
    """Keeps outlines equally wide on screen at any zoom, unless the user sets another width."""

    def __init__(self, viewer: ViewerModel, cells_layer: Labels) -> None:
        self._layer, self._camera, self._width = ref(cells_layer), private.camera_of(viewer), cells_layer.contour
        self._camera.events.zoom.connect(self.fit)  # napari keeps only a weak reference
        self.fit()

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Return None: a duplicated layer gets its own."""

    def fit(self, _event: object = None) -> None:
        """Set the width for the current zoom."""
        layer = self._layer()
        if layer is None or layer.contour != self._width:
            return
        screen_px = float(self._camera.zoom * layer.scale[-1])
        width = outline_width(screen_px, diameter_px=calibration_of(layer).rbc_diameter_px)
        if layer.multiscale and width:  # a pixel of the level shown is about a screen pixel
            width = round(OUTLINE_PX)
        if width != self._width:
            self._width = layer.contour = width


def follow_view(viewer: ViewerModel, cells_layer: Labels) -> None:
    """Adapt outlines to the zoom, and hide all labels while `HIDING_KEY` is held."""
    if not isinstance(cells_layer.metadata.get(_OUTLINES), Outlines):
        cells_layer.metadata[_OUTLINES] = Outlines(viewer, cells_layer)
    viewer.bind_key(HIDING_KEY, hide_while_held, overwrite=True)


def hide_while_held(viewer: ViewerModel) -> Iterator[None]:
    """Hide all Labels layers until the key is released."""
    hidden = [(layer, layer.opacity) for layer in viewer.layers if isinstance(layer, Labels)]
    for layer, _ in hidden:
        layer.opacity = 0  # unlike `visible`, this causes no reading afterwards
    yield
    for layer, opacity in hidden:
        layer.opacity = opacity


def show_tools_later(layer: Labels) -> None:
    """Delay napari's brush and polygon overlays: creating them is half of what adding a layer costs."""
    if running_app() is None:
        return
    shown = [mark for mark in private.marks_of(layer) if mark.visible]
    for number, mark in enumerate(shown, start=1):
        mark.visible = False  # napari creates visible overlays only
        soon(partial(setattr, mark, "visible", True), number * TOOLS_AFTER_MS)


def cell_at(cells_layer: Labels, position: Sequence[float]) -> int:
    """Return the id of the cell at a world position, at full resolution; 0 if there is none."""
    ids = cells_layer.data[0] if cells_layer.multiscale else cells_layer.data
    pixel = np.round(np.asarray(cells_layer.world_to_data(np.asarray(position)))).astype(int)[-len(ids.shape) :]
    if len(pixel) != len(ids.shape) or np.any(pixel < 0) or np.any(pixel >= ids.shape):
        return 0
    return int(np.asarray(ids[tuple(pixel)]))


def describe_cell(cells_layer: Labels, cell: int) -> str:
    """Return "cell 12: RBC, 98 %", as far as known; "" for the background."""
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
    return f"cell {cell}: {name}, {sure}{describe_kind(features, int(rows[0]))}"


def describe_kind(features: pd.DataFrame, row: int) -> str:
    """Return "; neutrophil, 91.0 %; abnormal", as far as that is known of a row."""
    told = []
    kind = str(features["subtype"].iat[row] or "") if "subtype" in features.columns else ""
    if kind:
        is_own = "subtype_source" in features.columns and features["subtype_source"].iat[row] == "user"
        sure = features["subtype_probability"].to_numpy(np.float64)[row]
        told.append(f"{kind}, {'set by hand' if is_own else f'{100 * sure:.1f} %'}")
    if "abnormal" in features.columns and features["abnormal"].iat[row]:
        told.append("abnormal")
    return "".join(f"; {one}" for one in told)


def cell_status(layer: Labels, cells_layer: Labels, position: Any = None, **options: Any) -> dict[str, Any]:
    """Replace ``Labels.get_status``: describe the cell instead of listing every column of its table."""
    status = private.status_by_napari(layer, position, **options)
    if position is None:
        return status
    told = describe_cell(cells_layer, cell_at(cells_layer, position))
    place = ", ".join(f"{round(float(p))}" for p in layer.world_to_data(np.asarray(position)))
    status["value"] = f": {told}" if told else ""
    status["coordinates"] = f" [{place}]: {told}" if told else f" [{place}]"
    return status


def show_status_of(layer: Labels, cells_layer: Labels) -> None:
    """Show id, type and probability of the cell under the mouse in the status bar."""
    private.tell_status_by(layer, partial(cell_status, layer, cells_layer))


def moved_placement(layer: Layer, corner: tuple[int, int]) -> dict[str, Any]:
    """Return `translate` for a layer whose first pixel is pixel `corner` (y, x) of `layer`."""
    matrix = Affine(scale=layer.scale[-2:], rotate=layer.rotate[-2:, -2:], shear=layer.shear[-1:]).linear_matrix
    return {"translate": np.asarray(layer.translate[-2:]) + matrix @ np.asarray(corner, float)}
