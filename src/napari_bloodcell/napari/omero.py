"""Images that napari-omero opened: a layer for each channel, put together as one smear with its units, name and id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Layer
from numpy.typing import NDArray

from napari_bloodcell.core.errors import InputError
from napari_bloodcell.images.files import UM_PER_UNIT
from napari_bloodcell.napari.layers.links import levels_of
from napari_bloodcell.napari.pyramids import placement_um

OMERO = "omero"
"""Key of what napari-omero tells of an image, in the metadata of its layers."""


def merge_channels(viewer: ViewerModel, layer: Layer | None = None) -> Image:
    """Put the red, green and blue layers of an OMERO image together as one layer, and remove them.

    It is read lazily, plane by plane or as a pyramid, and called "<id>: <name>". `layer` is one of them, by default the
    active one, or the only image there is. Raises `InputError` if there are not three channels of 8 bits.
    """
    images = [one for one in viewer.layers if isinstance(one, Image) and id_of(one) is not None]
    chosen = layer if layer is not None else viewer.layers.selection.active
    if chosen not in images and len({id_of(one) for one in images}) == 1:
        chosen = images[0]
    if chosen not in images:
        raise InputError("No layer of an OMERO image is selected. Open one by napari-omero, and select it.")
    channels = [one for one in images if id_of(one) == id_of(chosen) and not one.rgb]
    if len(channels) != 3 or any(one.dtype != np.uint8 for one in channels):
        kinds = ", ".join(sorted({str(one.dtype) for one in channels})) or "none"
        raise InputError(
            f"{chosen.name!r} is of an OMERO image with {len(channels)} channels ({kinds}); red, green and blue of 8 "
            "bits are the colours of a smear."
        )
    by_colour = [[one for one in channels if _shows(one, primary)] for primary in range(3)]
    if any(len(found) != 1 for found in by_colour):
        raise InputError(
            f"The channels of {chosen.name!r} are not shown in red, green and blue: they look like fluorescence. The "
            "program counts the cells of stained smears in bright field."
        )
    channels = [found[0] for found in by_colour]
    about: Mapping[str, Any] = channels[0].metadata[OMERO]
    planes = [[_plane_of(level) for level in levels_of(one)] for one in channels]
    levels = [_Merged([one[i] for one in planes]) for i in range(len(planes[0]))]
    height, width = (_um(about, axis) for axis in "YX")
    size = height if height and width and abs(height - width) <= 0.01 * width else None
    merged = Image(
        levels if len(levels) > 1 else np.asarray(levels[0]),
        rgb=True,
        multiscale=len(levels) > 1,
        name=f"{id_of(chosen)}: {about.get('Name') or chosen.name.partition(': ')[2]}",
        metadata={OMERO: dict(about)},
        **placement_um(size),
    )
    for one in channels:
        viewer.layers.remove(one)
    viewer.add_layer(merged)
    return merged


def id_of(layer: Layer) -> int | None:
    """Return the id of the OMERO image that a layer shows; None if it is of none."""
    about = layer.metadata.get(OMERO)
    number = about.get("@id") if isinstance(about, dict) else None
    return int(number) if isinstance(number, int) else None


def _um(about: Mapping[str, Any], axis: str) -> float | None:
    """Return the size of a pixel, µm, of what OMERO says of an image."""
    size = (about.get("Pixels") or {}).get(f"PhysicalSize{axis}") or {}
    unit = UM_PER_UNIT.get(str(size.get("Symbol", size.get("Unit", ""))).lower())
    value = size.get("Value")
    return float(value) * unit if isinstance(value, int | float) and unit else None


def _shows(layer: Image, primary: int) -> bool:
    """Return whether a channel is shown in red (0), green (1) or blue (2)."""
    brightest = np.asarray(layer.colormap.map(np.array([1.0])))[0, :3]
    return bool((np.flatnonzero(brightest > 0.5) == [primary]).all() and (brightest > 0.5).sum() == 1)


def _plane_of(level: Any) -> Any:
    """Return the only plane (Y, X) of an array (T, Z, Y, X)."""
    if any(int(n) != 1 for n in level.shape[:-2]):
        raise InputError(
            f"The OMERO image has the shape {tuple(map(int, level.shape))} (t, z, y, x); one plane is merged. "
            "Save the plane in focus as an image of its own."
        )
    return level[(0,) * (len(level.shape) - 2)]


class _Merged:
    """Three planes as one array (Y, X, 3) uint8, read where it is sliced."""

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, planes: list[Any]) -> None:
        self._planes = planes
        self.shape = (*(int(n) for n in planes[0].shape), 3)
        self.size = int(np.prod(self.shape, dtype=np.int64))

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        keys = [*(key if isinstance(key, tuple) else (key,))]
        if Ellipsis in keys:
            i = keys.index(Ellipsis)
            keys[i : i + 1] = [slice(None)] * (4 - len(keys))
        place, channel = tuple(keys[:2]), keys[2] if len(keys) > 2 else slice(None)
        return np.stack([np.asarray(plane[place]) for plane in self._planes], -1)[..., channel]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)
