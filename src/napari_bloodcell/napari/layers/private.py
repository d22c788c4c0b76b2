"""All uses of napari's private API, and of what its versions call differently.

Each function wraps one private name; `tests/napari/layers/test_private.py` says for each what breaks if napari
changes it. There is no public equivalent (napari 0.7 to 0.9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
from napari.layers import Labels, Layer
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray
from pydantic import PrivateAttr

Texture = Callable[[NDArray[Any], tuple[slice, ...] | None], NDArray[Any]]

Wrapped = TypeVar("Wrapped")


class Drawn(NamedTuple):
    """The part of a plane that napari has on screen."""

    labels: NDArray[Any]  # (h, w), as read
    texture: NDArray[Any]  # (h, w), what the graphics card gets; write to it, then call `send`
    step: float  # pixels of the finest level per pixel here
    corner: NDArray[np.int64]  # (y, x) of the first pixel in its level, int64


class LookupColormap(DirectLabelColormap):
    """Colours labels by a code each, however many labels there are."""

    _code_of: Any = PrivateAttr(default=None)

    @classmethod
    def by(cls, code_of: Callable[[NDArray[Any]], NDArray[np.uint8]], colours: dict[int | None, Any]) -> LookupColormap:
        """Return a colormap with `colours` by code; `code_of` maps labels to codes."""
        colormap = cls(color_dict=colours)
        colormap._code_of = code_of
        return colormap

    def map(self, values: Any) -> NDArray[Any]:
        """Return the colours of labels, (…, 4)."""
        codes = self._code_of(np.asarray(values))
        return cast("NDArray[Any]", super().map(codes if codes.ndim else int(codes)))

    def _data_to_texture(self, values: Any) -> Any:
        return super()._data_to_texture(self._code_of(np.asarray(values)).astype(np.int32))


def unwrapped(viewer: Wrapped) -> Wrapped:
    """Return the viewer behind the proxy that plugins get; events carry the layers of the viewer itself."""
    return cast("Wrapped", getattr(viewer, "__wrapped__", viewer))


def drawn_of(layer: Labels) -> Drawn | None:
    """Return what is on screen of a layer; None if the view is not upright 2D, or not drawn yet."""
    upright = (layer.ndim - 2, layer.ndim - 1)
    if not layer.loaded or tuple(layer._slice_input.displayed) != upright:
        return None
    shown, tile = layer._slice.image, layer._transforms["tile2data"]
    corner = np.rint(tile.translate / tile.scale).astype(np.int64)[-2:]
    return Drawn(shown.raw, shown.view, float(tile.scale[-1]), corner)


def send(layer: Labels, window: tuple[slice, slice]) -> None:
    """Show a part of the texture of `drawn_of` after writing to it."""
    texture = layer._slice.image.view
    layer.events.labels_update(data=texture[window], offset=[part.start for part in window])


def texture_by_napari(layer: Labels, labels: NDArray[Any], part: tuple[slice, ...] | None = None) -> NDArray[Any]:
    """Return the texture that napari computes for labels."""
    return cast("NDArray[Any]", Labels._raw_to_displayed(layer, labels, part))


def texture_of(layer: Labels, labels: NDArray[Any], part: tuple[slice, ...] | None = None) -> NDArray[Any]:
    """Return this layer's texture for labels, computed by napari or by the function of `make_textures_by`."""
    return cast("NDArray[Any]", layer._raw_to_displayed(labels, part))


def make_textures_by(layer: Labels, texture: Texture) -> None:
    """Replace the function, (labels, part) → texture, that computes a layer's textures."""
    layer.__dict__["_raw_to_displayed"] = texture


def texture_codes(layer: Labels, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the texture values of labels, without outlines."""
    return cast("NDArray[Any]", layer.colormap._data_to_texture(labels))


def tell_status_by(layer: Labels, status: Callable[..., dict[str, Any]]) -> None:
    """Replace ``Labels.get_status`` of one layer."""
    layer.__dict__["get_status"] = status


def status_by_napari(layer: Labels, position: Any, **options: Any) -> dict[str, Any]:
    """Return napari's status for a position in any layer, without the columns of a label's table."""
    return cast("dict[str, Any]", super(Labels, layer).get_status(position, **options))


def read_again(layer: Layer) -> None:
    """Read and redraw everything in view, including the coarsest level of a pyramid, which napari caches."""
    if layer.multiscale:
        layer._reset_thumbnail_level_data()
    layer.refresh(extent=False)


def marks_of(layer: Labels) -> list[Any]:
    """Return the overlays of napari's painting tools in a layer."""
    return list(layer._overlays.values())


def camera_of(viewer: Any) -> Any:
    """Return the camera of a viewer, which belongs to its scene from napari 0.9 on."""
    return viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera


def main_window_of(viewer: Any) -> Any:
    """Return the main window of a viewer; None if it has none, as in a script."""
    window = getattr(viewer, "window", None)
    return getattr(window, "_qt_window", None)
