"""What the program uses of napari that napari does not promise: here and nowhere else.

Each function stands for one private name, and `tests/napari/layers/test_private.py` says of each what breaks when a
new napari has changed it. No public name does the same (napari 0.9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.layers import Layer
    from numpy.typing import NDArray

    Texture = Callable[[NDArray[Any], tuple[slice, ...] | None], NDArray[Any]]

Wrapped = TypeVar("Wrapped")


class Drawn(NamedTuple):
    """The part of a plane that napari has on screen.

    Attributes
    ----------
    labels : ndarray of int, shape (h, w)
        As they were read.
    texture : ndarray, shape (h, w)
        What is made of them for the graphics card; may be written to, and `send` shows it.
    step : float
        Pixels of the finest level in one of these.
    corner : ndarray of int64, shape (2,)
        Where its first pixel lies in its level.
    """

    labels: NDArray[Any]
    texture: NDArray[Any]
    step: float
    corner: NDArray[np.int64]


class LookupColormap(DirectLabelColormap):
    """Colours by a code for each label, however many labels there are."""

    _code_of: Any = PrivateAttr(default=None)

    @classmethod
    def by(cls, code_of: Callable[[NDArray[Any]], NDArray[np.uint8]], colours: dict[int | None, Any]) -> LookupColormap:
        """Return the colormap of `colours` by code; `code_of` gives the codes of labels."""
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
    """Return a viewer itself instead of the proxy for plugins, whose layers are not the ones that events speak of."""
    return cast("Wrapped", getattr(viewer, "__wrapped__", viewer))


def drawn_of(layer: Labels) -> Drawn | None:
    """Return what is on screen of a layer; None where that is not an upright 2D view, or not there yet."""
    upright = (layer.ndim - 2, layer.ndim - 1)
    if not layer.loaded or tuple(layer._slice_input.displayed) != upright:
        return None
    shown, tile = layer._slice.image, layer._transforms["tile2data"]
    corner = np.rint(tile.translate / tile.scale).astype(np.int64)[-2:]
    return Drawn(shown.raw, shown.view, float(tile.scale[-1]), corner)


def send(layer: Labels, window: tuple[slice, slice]) -> None:
    """Show a part of the texture of `drawn_of` that was written to."""
    texture = layer._slice.image.view
    layer.events.labels_update(data=texture[window], offset=[part.start for part in window])


def texture_by_napari(layer: Labels, labels: NDArray[Any], part: tuple[slice, ...] | None = None) -> NDArray[Any]:
    """Return what napari makes of labels for the graphics card."""
    return cast("NDArray[Any]", Labels._raw_to_displayed(layer, labels, part))


def texture_of(layer: Labels, labels: NDArray[Any], part: tuple[slice, ...] | None = None) -> NDArray[Any]:
    """Return what this layer makes of labels: napari's own, or what was given to `make_textures_by`."""
    return cast("NDArray[Any]", layer._raw_to_displayed(labels, part))


def make_textures_by(layer: Labels, texture: Texture) -> None:
    """Let a layer make its textures by this function, (labels, part) as `texture_by_napari` takes them."""
    layer.__dict__["_raw_to_displayed"] = texture


def texture_codes(layer: Labels, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the values of a texture that stand for labels, whatever their outlines."""
    return cast("NDArray[Any]", layer.colormap._data_to_texture(labels))


def tell_status_by(layer: Labels, status: Callable[..., dict[str, Any]]) -> None:
    """Let the status bar tell of a layer what this function returns; it takes the arguments of `Labels.get_status`."""
    layer.__dict__["get_status"] = status


def status_by_napari(layer: Labels, position: Any, **options: Any) -> dict[str, Any]:
    """Return what napari says of a position in any layer, without the columns of a table of labels."""
    return cast("dict[str, Any]", super(Labels, layer).get_status(position, **options))


def read_again(layer: Layer) -> None:
    """Read and draw again all that is in view, and the coarsest level of a pyramid, which napari keeps."""
    if layer.multiscale:
        layer._reset_thumbnail_level_data()
    layer.refresh(extent=False)


def marks_of(layer: Labels) -> list[Any]:
    """Return the marks of napari's painting tools that belong to a layer."""
    return list(layer._overlays.values())
